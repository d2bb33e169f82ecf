from dataclasses import replace

import pytest

from tests.config.example import run_config
from toplora_train.config.errors import UserError
from toplora_train.config.locate import options
from toplora_train.config.schema import RunConfig
from toplora_train.jobs.engines import refuse_unfit_engine


def judged(**changes) -> RunConfig:
    """A run that trains a head and keeps the best epoch on held-out rows."""
    task = {
        "name": "rte",
        "source": "nyu-mll/glue",
        "kind": "classify",
        "choices": ["entailment", "not_entailment"],
    }
    config = run_config(dataset__validation_share=0.1, **changes)
    asked = run_config(task={"rte": task}, dataset__train="rows.jsonl")
    return replace(config, task=asked.task)


@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_zero_is_refused_with_what_does_the_same(engine):
    with pytest.raises(UserError, match=rf"engine={engine}.*launch=fsdp2 shares"):
        refuse_unfit_engine(run_config(launch__engine=engine), processes=1)


def test_fsdp2_does_not_choose_an_epoch_of_a_head_and_says_what_does():
    with pytest.raises(UserError, match=r"fsdp2 cannot judge a head.*launch=ddp"):
        refuse_unfit_engine(judged(launch__engine="fsdp2"), processes=2)


def test_what_each_engine_can_do_is_let_through():
    refuse_unfit_engine(judged(launch__engine="ddp"), processes=2)
    refuse_unfit_engine(judged(launch__engine="fsdp2"), processes=1)
    refuse_unfit_engine(run_config(launch__engine="fsdp2"), processes=2)


def test_every_engine_is_an_option_of_launch():
    assert set(options("launch")) == {"local", "ddp", "fsdp2", "zero2", "zero3"}
