"""From a command to its worker processes, and back to an exit code."""
