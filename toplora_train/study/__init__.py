"""Studies: the jobs of a ``-m`` command in one folder, which the same command continues."""
