"""The ways in which a model answers the rows of a task: one method, one module."""
