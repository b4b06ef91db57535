"""Scaling modes: one file each, found by entry points of the group ``tfscale.modes``."""
