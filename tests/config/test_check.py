"""Unknown keys, invalid values and conflicts: each is one line that names the key."""

import pytest

from tests.config.example import run_config, values
from toplora_train.config.check import check, known_keys, known_tree
from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig


def complaint(**changes) -> str:
    with pytest.raises(UserError) as error:
        run_config(**changes)
    return str(error.value)


def test_the_values_of_a_run_become_a_frozen_configuration():
    config = run_config()
    assert isinstance(config, RunConfig)
    assert config.trainer.batch_size == 8
    assert config.task["boolq"].max_new_tokens == 32
    with pytest.raises(AttributeError):
        config.seed = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("adapter__rnak", "unknown key 'adapter.rnak'; did you mean 'adapter.r'?"),
        (
            "adapter__gate__actvation",
            "unknown key 'adapter.gate.actvation'; did you mean 'adapter.gate.activation'?",
        ),
        (
            "trainer__max_stesp",
            "unknown key 'trainer.max_stesp'; did you mean 'trainer.max_steps'?",
        ),
        ("optimiser", "unknown key 'optimiser'; did you mean 'optimizer'?"),
        (
            "task__boolq__max_tokens",
            "unknown key 'task.boolq.max_tokens'; did you mean 'task.boolq.max_new_tokens'?",
        ),
        ("zzzz", "unknown key 'zzzz'"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_one(key, message):
    assert complaint(**{key: 4}) == message


def test_a_key_of_another_adapter_is_unknown():
    assert "unknown key 'adapter.gate'" in complaint(adapter={"name": "lora", "gate": {}})


def test_the_file_that_set_the_key_is_blamed():
    def blame(key):
        return "mine.yaml: " if key == "optimizer.lr" else ""

    with pytest.raises(UserError, match=r"^mine\.yaml: optimizer\.lr must be greater than 0"):
        check(values(optimizer__lr=-1), blame=blame)
    with pytest.raises(UserError, match=r"^optimizer\.eps must be"):
        check(values(optimizer__eps=-1), blame=blame)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer__lr", -1, "optimizer.lr must be greater than 0, not -1"),
        ("optimizer__lr", "fast", "optimizer.lr must be a number, not 'fast'"),
        ("optimizer__lr", float("nan"), "optimizer.lr must be a finite number, not nan"),
        ("optimizer__betas", [0.9], "optimizer.betas has too few values"),
        ("optimizer__warmup_ratio", 1, "optimizer.warmup_ratio must be less than 1, not 1"),
        ("trainer__batch_size", 1.5, "trainer.batch_size must be an integer, not 1.5"),
        ("trainer__batch_size", True, "trainer.batch_size must be a number, not true"),
        ("trainer__keep", 0, "trainer.keep must be at least 1, not 0"),
        ("trainer__max_steps", 0, "trainer.max_steps must be at least 1, not 0"),
        ("trainer", 5, "trainer must be a mapping, not 5"),
        ("plan", "perhaps", "plan must be true or false, not 'perhaps'"),
        ("dataset__train", {"a": 1}, "dataset.train must be a string or a list, not {'a': 1}"),
        (
            "model__dtype",
            "fp8",
            "model.dtype must be one of float32, bfloat16, float16, not 'fp8'",
        ),
        ("task__boolq__version", 0, "task.boolq.version must be at least 1, not 0"),
        ("resume", "yes", "resume must be one of auto, extend, not 'yes'"),
        ("seed", 2**64, "seed must be at most 4294967295, not 18446744073709551616"),
        ("seed", -1, "seed must be at least 0, not -1"),
        ("seed", 1.5, "seed must be an integer, not 1.5"),
    ],
)
def test_an_invalid_value_is_named_with_what_is_allowed(key, value, message):
    assert complaint(**{key: value}) == message


def test_a_missing_key_is_named():
    changed = values()
    del changed["task"]["boolq"]["source"]
    with pytest.raises(UserError, match=r"^task\.boolq\.source is not set$"):
        check(changed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset__train": None}, "dataset.train is not set; give the training rows"),
        (
            {"dataset__test": "a.json", "task__test": {"name": "test", "source": "b"}},
            "dataset.test becomes the task 'test'",
        ),
        ({"task__boolq__name": "piqa"}, "task.boolq.name is 'piqa'; it must be 'boolq'"),
        ({"tracker__project": "mine"}, "tracker=wandb"),
        (
            {"tracker__name": "trackio", "tracker__entity": "us"},
            "tracker.entity has no effect with tracker=trackio; remove it, or use tracker=wandb",
        ),
        ({"forgetting__limit": 3}, "forgetting is not measured without forgetting.source"),
        ({"plan_for": "t4"}, "plan_for=t4 needs plan=true"),
        ({"task__piqa__max_new_tokens": 4}, "task.piqa is set but not chosen"),
        ({"task": {"name": "mine", "source": "x"}}, "first line must be '# @package task.mine'"),
    ],
)
def test_conflicting_settings_are_rejected(changes, message):
    assert message in complaint(**changes)


def test_a_recipe_without_its_header_is_rejected():
    with pytest.raises(UserError, match="a recipe's first line must be '# @package _global_'"):
        check(values(recipe={"trainer": {}}))


def test_a_batch_that_the_micro_batches_do_not_divide_is_fine():
    assert run_config(trainer__batch_size=10, trainer__micro_batch_size=4).trainer.batch_size == 10


def test_every_key_of_the_schema_is_known():
    keys = known_keys(known_tree("toplora", {"boolq": None}))
    assert {"seed", "adapter.gate.eps", "task.boolq.extraction", "launch.processes"} <= set(keys)
