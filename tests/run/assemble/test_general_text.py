from dataclasses import replace

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.schema import ForgettingSettings
from toplora_train.models.tiny import tiny_model, tiny_tokenizer
from toplora_train.run.assemble.general_text import read_general_text

BUNDLED = ForgettingSettings(name="general_text", source="bundled:general_text/test.jsonl")


def test_without_a_text_nothing_is_measured(make_run):
    text = read_general_text(make_run(), tiny_tokenizer(), None)
    losses = text.losses(tiny_model())
    assert losses == []
    assert text.change(losses, losses) is None


def test_an_unchanged_model_has_forgotten_nothing(make_run):
    text = read_general_text(make_run(forgetting=BUNDLED), tiny_tokenizer(), None)
    losses = text.losses(tiny_model())
    found = text.change(losses, text.losses(tiny_model()))
    assert found["difference"] == 0
    assert found["ci95"] == (0, 0)
    assert found["text"] == "bundled:general_text/test.jsonl"
    assert found["tokens"] > 1000


def test_a_head_has_no_such_loss(make_run):
    task = {"t": replace(next(iter(make_run().task.values())), name="t", kind="classify")}
    with pytest.raises(UserError, match="forgetting=general_text is the loss of a language model"):
        read_general_text(make_run(task=task, forgetting=BUNDLED), tiny_tokenizer(), None)
