"""The table of hostile cases: what is given to a command, and the one line that it answers."""
