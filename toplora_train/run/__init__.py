"""The commands of a run, each read top to bottom, and their parts in four subpackages."""
