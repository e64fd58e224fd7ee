"""hwpoison: what a memory error will cost, decided by running Linux's own answer to it."""

__version__ = "0.1.0"
