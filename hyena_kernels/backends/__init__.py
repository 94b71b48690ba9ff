"""The backends, one folder each: ``torch``, ``triton``, ``cpp`` and ``cuda``, with one file for each op.

A backend imports no other backend. ``extension.py`` loads the compiled libraries that ``cpp`` and ``cuda`` share.
"""
