import pytest
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from toplora_train.config.by_task import register_by_task


def resolved(tasks: list[str], values: str = "{cola: 4e-4, rte: 5e-4, sst2: 5e-4}") -> float:
    register_by_task()
    config = OmegaConf.create(
        {"task": {name: {"name": name} for name in tasks}, "lr": f"${{by_task:{values}}}"}
    )
    return config.lr


def test_the_chosen_tasks_value_is_taken():
    assert resolved(["cola"]) == 4e-4
    assert resolved(["rte"]) == 5e-4


def test_tasks_can_share_a_value():
    assert resolved(["rte", "sst2"]) == 5e-4


def test_an_integer_stays_an_integer():
    value = resolved(["cola"], "{cola: 80}")
    assert value == 80 and isinstance(value, int)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["boolq"], "no value for task boolq, only for cola, rte, sst2"),
        ([], "no value for a run without a task"),
        (["cola", "rte"], r"have different values \(0.0004 for cola, 0.0005 for rte\)"),
    ],
)
def test_tasks_without_a_common_value_are_rejected(tasks: list[str], message: str):
    with pytest.raises(InterpolationResolutionError, match=message):
        resolved(tasks)
