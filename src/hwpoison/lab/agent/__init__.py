"""The second witness: runs inside a guest and gives a real kernel's answers (x86-64 only).

``python -m hwpoison.lab.agent SCENARIOS.json RESULTS.jsonl`` (the format of both: lab/wire.py). The
runner isolates scenarios from each other; the witness makes their steps; tasks are processes of a few
bytes of machine code.

What is switched off, so that nothing but the scenario changes its pages (quiet.py, files.py, disks.py):
periodic writeback and journal commits, readahead, fault-around, transparent huge pages and with them
large folios (files are read and written one page at a time), KSM, zswap, swap readahead, compaction.
All runs on one CPU, which has one list of fresh pages.
"""
