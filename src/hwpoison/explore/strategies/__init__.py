"""Which schedules are run, and in which order: one strategy a module."""
