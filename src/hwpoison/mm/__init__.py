"""The model of the VM: one module per kernel file, with the kernel's names.

Nothing here prints, opens files, looks at a clock or draws random numbers: a run is a pure function
of the machine that was built and of the order in which its paths of execution take turns.
"""
