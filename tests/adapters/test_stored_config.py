"""What a saved adapter's config asks for is checked before PEFT acts on it."""

from pathlib import Path

import pytest
import torch

from toplora_train.adapters import stored_config
from toplora_train.adapters.stored_config import (
    peft_errors,
    validate_matching,
    validate_ranks,
    validate_stored_config,
)
from toplora_train.config.errors import UserError

LORA = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "bias": "none"}
FILE = Path("adapter_config.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": ["LORA"]}, r"peft_type must be a method's name, not \['LORA'\]"),
        ({"peft_type": None}, "peft_type must be a method's name, not None"),
        ({"bias": "sometimes"}, "unknown bias 'sometimes'"),
        ({"bias": ["all"]}, "unknown bias"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication is not supported"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_config is not supported"),
        ({"target_modules": "("}, r"target_modules has '\(', which is not a regular expression"),
        ({"exclude_modules": "*x"}, "exclude_modules has"),
        ({"rank_pattern": {"q_proj[": 4}}, r"rank_pattern has 'q_proj\[', which is not a regular"),
    ],
)
def test_a_setting_that_is_not_loaded_is_named(change: dict, message: str):
    with pytest.raises(UserError, match=rf"^adapter_config\.json: {message}"):
        validate_stored_config(LORA | change, FILE)


def test_configs_as_peft_writes_them_are_valid():
    validate_stored_config(LORA, FILE)
    validate_stored_config(LORA | {"bias": "lora_only", "layer_replication": None}, FILE)
    validate_stored_config(LORA | {"target_modules": r".*\.(q|v)_proj", "rank_pattern": {}}, FILE)


@pytest.mark.parametrize("key", ["target_modules", "rank_pattern"])
def test_a_pattern_that_never_ends_is_refused(monkeypatch, key: str):
    names = ["model.layers.0.self_attn.q_proj", "a" * 60]
    validate_matching(LORA | {key: {r".*\.(q|v)_proj": 4}}, names, FILE)
    monkeypatch.setattr(stored_config, "MATCHING", 2)
    with pytest.raises(UserError, match=rf"{key} has '\(a\+\)\+b', which takes longer than 2 s"):
        validate_matching(LORA | {key: {"(a+)+b": 4}}, names, FILE)


def test_a_rank_above_every_saved_dimension_is_refused_before_memory_is_reserved():
    shapes = {"lora_A": (8, 64), "lora_B": (64, 8)}
    validate_ranks({"r": 8, "ranks": [8, 8, 8], "rank_pattern": {"q": 64}}, shapes, FILE)
    for config in ({"r": 10**9}, {"ranks": [8, 65]}, {"rank_pattern": {"q": 65}}):
        with pytest.raises(UserError, match="but no saved tensor is larger than 64"):
            validate_ranks(config, shapes, FILE)
    with pytest.raises(UserError, match="r is 'eight', not a number"):
        validate_ranks({"r": "eight"}, shapes, FILE)


@pytest.mark.parametrize("error", [KeyError("a"), NotImplementedError("b\nc"), RuntimeError("d")])
def test_an_error_of_peft_is_one_line_that_begins_with_the_place(error: Exception):
    with pytest.raises(UserError, match=r"^place: (a is missing|b c|d)$"), peft_errors("place"):
        raise error


def test_lack_of_memory_is_not_blamed_on_the_file():
    with pytest.raises(torch.OutOfMemoryError), peft_errors("place"):
        raise torch.OutOfMemoryError("CUDA out of memory")
