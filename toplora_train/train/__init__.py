"""One loop, one step."""
