"""Finding the modules to adapt, and refusing names that match nothing."""

import pytest
from torch import nn

from toplora_train.adapters.targets import (
    attention_projections,
    check_layers_exist,
    check_targets_exist,
    linear_module_names,
    plain_names,
)
from toplora_train.models.tiny import tiny_model


def model_with(*names: str) -> nn.Module:
    return nn.ModuleDict({name: nn.Linear(2, 2) for name in names})


@pytest.mark.parametrize(
    ("names", "projections"),
    [
        (("q_proj", "k_proj", "v_proj", "o_proj"), ["q_proj", "k_proj", "v_proj"]),
        (("query", "key", "value", "dense"), ["query", "key", "value"]),
        (("query_proj", "key_proj", "value_proj"), ["query_proj", "key_proj", "value_proj"]),
        (("q", "k", "v", "o", "wi", "wo"), ["q", "k", "v"]),
        (("query_key_value", "dense"), ["query_key_value"]),
    ],
)
def test_query_key_and_value_are_known_by_each_architectures_names(names, projections):
    assert attention_projections(model_with(*names)) == projections


def test_an_unknown_architecture_is_refused_with_its_linear_layers():
    with pytest.raises(ValueError, match=r"^target_modules must be set .* are left, right$"):
        attention_projections(model_with("left", "right"))


def test_linear_layers_are_listed_once_by_their_last_name():
    assert linear_module_names(tiny_model()) == [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
        "lm_head",
    ]


@pytest.mark.parametrize(
    "patterns", [["q_proj"], ["self_attn.v_proj", "lm_head"], r".*\.1\..*_proj", "all-linear", None]
)
def test_names_name_suffixes_and_full_regular_expressions_match(patterns):
    check_targets_exist("target_modules", patterns, tiny_model())


@pytest.mark.parametrize(
    ("patterns", "named"),
    [(["q_proj", "proj"], "'proj'"), ("q_proj", "'q_proj'"), (["x", "a"], "'a', 'x'")],
)
def test_a_name_that_matches_nothing_is_refused_with_the_linear_layers(patterns, named):
    with pytest.raises(ValueError, match=f"^target_modules names {named}, .* are q_proj, k_proj"):
        check_targets_exist("target_modules", patterns, tiny_model())


def test_a_plain_name_becomes_a_list_and_a_regular_expression_stays():
    settings = {"target_modules": "self_attn.q_proj", "modules_to_save": "lm_head", "init": "x"}
    assert plain_names(settings) == {
        "target_modules": ["self_attn.q_proj"],
        "modules_to_save": ["lm_head"],
        "init": "x",
    }
    for kept in (r".*\.q_proj", "all-linear", "q_proj|v_proj", ["q_proj"], None):
        assert plain_names({"target_modules": kept}) == {"target_modules": kept}


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("q_proj, v_proj", r"several names are a list: \[q_proj,v_proj\]"),
        (r"layers.*q_proj", "a regular expression that must match a module's full name"),
    ],
)
def test_a_string_that_matches_nothing_is_refused_with_advice(text: str, advice: str):
    with pytest.raises(ValueError, match=advice):
        check_targets_exist("target_modules", text, tiny_model())


def test_an_unknown_layer_is_refused_with_the_models_layers():
    check_layers_exist([0, 1], tiny_model())
    check_layers_exist(1, tiny_model())
    check_layers_exist(None, tiny_model())
    for layers in (2, [0, 2]):
        with pytest.raises(ValueError, match=r"^layers_to_transform names layer 2.* has 0 to 1$"):
            check_layers_exist(layers, tiny_model())
