"""The evaluation methods, one per module."""
