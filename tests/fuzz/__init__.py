"""Hostile input for every reader of what others wrote: `python -m tests.fuzz --help`."""

# Stands in pictures, volumes and tables wherever people stand, and must not be in any message
MARKER = "Qzvxmarker"
