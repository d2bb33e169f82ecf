"""A run goes on with the settings that it began with."""

from dataclasses import replace

import pytest

from toplora_train.config.errors import UserError
from toplora_train.run import finetune


def test_a_run_cannot_resume_with_other_settings(trained):
    config, folder = trained
    other = replace(config, resume="auto", adapter=config.adapter | {"r": 4})
    with pytest.raises(UserError, match=r"adapter\.r was 8, now 4"):
        finetune.run(other, folder)
    other = replace(config, resume="auto", dataset=replace(config.dataset, limit=19))
    with pytest.raises(UserError, match=r"dataset\.rows"):
        finetune.run(other, folder)
