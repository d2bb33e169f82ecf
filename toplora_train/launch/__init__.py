"""From the command to worker processes, and their exit codes back."""
