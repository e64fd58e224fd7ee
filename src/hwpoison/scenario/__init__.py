"""Scenarios: an error in a machine set up step by step, and what must be seen.

A scenario is data (verbs.py says which steps there are), so several witnesses can run it: the model
(model.py), and real kernels. All answer with the records of hwpoison.abi.records. promises.py checks
what no run may break; the catalogue holds the scenarios that must come out as written.
"""
