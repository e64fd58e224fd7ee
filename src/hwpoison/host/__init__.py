"""This Linux host, read through /proc and /sys: nothing here changes the machine."""
