"""The nearest key is the one the user most likely meant."""

import pytest

from toplora_train.config.suggest import SYNONYMS, hint, nearest_key, nearest_name, not_found

KNOWN = [
    "model",
    "model.path",
    "model.dtype",
    "adapter",
    "adapter.r",
    "adapter.alpha",
    "adapter.gate.activation",
    "optimizer.lr",
    "trainer.batch_size",
    "trainer.max_steps",
    "evaluation.batch_size",
]


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("adapter.rnak", "adapter.r"),
        ("adapter.rank", "adapter.r"),
        ("adapter.lora_r", "adapter.r"),
        ("adapter.lora_alpha", "adapter.alpha"),
        ("adapter.gate.actvation", "adapter.gate.activation"),
        ("trainer.max_stesp", "trainer.max_steps"),
        ("evaluation.bs", "evaluation.batch_size"),
        ("optimizer.learning_rate", "optimizer.lr"),
        ("trainer.learning_rate", "optimizer.lr"),
        ("lr", "optimizer.lr"),
        ("modle", "model"),
        ("adpter.r", "adapter.r"),
        ("model.torch_dtype", "model.dtype"),
    ],
)
def test_a_misspelt_or_foreign_key_suggests_the_known_one(unknown: str, meant: str):
    assert nearest_key(unknown, KNOWN) == meant


def test_the_same_group_is_searched_first():
    assert nearest_key("evaluation.bs", KNOWN) == "evaluation.batch_size"
    assert nearest_key("trainer.bs", KNOWN) == "trainer.batch_size"


def test_a_key_like_no_other_has_no_suggestion():
    assert nearest_key("adapter.zzzzzz", KNOWN) is None
    assert hint(None) == ""


def test_a_name_can_be_matched_by_its_beginning():
    recipes = ["llama3_commonsense", "smoke", "smollm2_commonsense"]
    assert nearest_name("lama3", recipes) == "llama3_commonsense"
    assert nearest_name("smoek", recipes) == "smoke"
    assert nearest_name("xyz", recipes) is None


def test_no_synonym_is_itself_a_key_of_the_schema():
    from toplora_train.config.check import known_keys, known_tree

    existing = {key.rpartition(".")[2] for key in known_keys(known_tree("lora", ["boolq"]))}
    assert not SYNONYMS.keys() & existing
    assert set(SYNONYMS.values()) <= existing


def test_an_unknown_name_is_reported_with_the_nearest_and_all_known_ones():
    assert not_found("task", "cola", ["boolq"]) == "no task named 'cola'; known: boolq"
    nearest = "no task named 'colla'; did you mean 'cola'? known: boolq, cola"
    assert not_found("task", "colla", ["boolq", "cola"]) == nearest
