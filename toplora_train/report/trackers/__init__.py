"""Experiment trackers: a module each, with a class that :func:`open_tracker` finds by name."""
