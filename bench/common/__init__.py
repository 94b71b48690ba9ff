"""Shared by all measurements: timing, memory, compiling ahead, the machine, files and formats."""
