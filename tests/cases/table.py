"""All cases."""

from tests.cases import (
    base_models,
    checkpoints,
    configuration,
    data_files,
    run_words,
    saved_runs,
    terminals,
)

CASES = (
    *configuration.CASES,
    *data_files.CASES,
    *base_models.CASES,
    *saved_runs.CASES,
    *run_words.CASES,
    *checkpoints.CASES,
    *terminals.CASES,
)
