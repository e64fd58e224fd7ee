"""The words Linux and this project share: no I/O, and no import from the rest of the package."""
