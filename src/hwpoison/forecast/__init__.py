"""What an error on a page of a host would do: decided by running the handler on a machine with such a page.

kinds.py folds what /proc shows into kinds; plant*.py build a machine that shows the same; judge.py strikes
the page, runs the handler and lets every user touch it; conditions.py repeats that with facts changed that
/proc does not show; consequence.py and rollup.py add up. No verdict is written down here.
"""
