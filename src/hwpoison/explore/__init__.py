"""Every interleaving: who runs next, one strategy a file; schedules as readable text; shrinking."""
