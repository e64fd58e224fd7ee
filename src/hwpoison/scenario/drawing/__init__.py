"""Random scenarios: drawn step by step, with the model itself saying what can be done next.

dice.py draws, world.py keeps one model of each kernel and asks them, moves_*.py has one entry a verb,
limits.py names what is left out and why, draw.py puts a scenario together, coverage.py counts what came up.
A new verb joins with one Move; a new restriction of the lab with one Limit.
"""
