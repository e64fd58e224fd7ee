"""The handler: what Linux does about a bad page (mm/memory-failure.c).

handler.py is memory_failure() itself, grab.py takes the page, user_mappings.py unmaps it, kill.py
finds and signals its users, states.py is the table of page states, profiles.py says what differs
between kernels, inject.py has the ways in.
"""
