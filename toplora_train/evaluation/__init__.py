"""Generate, extract and score answers."""
