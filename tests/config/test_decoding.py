"""Decoding is the evaluation's unless something else is given."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.run.conftest import tiny_run
from toplora_train.config.decoding import Decoding, find_decoding
from toplora_train.config.errors import UserError
from toplora_train.config.schema import TaskSettings


def test_the_runs_own_settings_are_the_default(tmp_path: Path):
    config = tiny_run(tmp_path)
    assert find_decoding(config, {}) == Decoding(4, config.evaluation.batch_size)


def test_a_run_without_tasks_answers_as_its_test_rows_are_answered(tmp_path: Path):
    config = replace(tiny_run(tmp_path), task={})
    assert find_decoding(config, {}).max_new_tokens == config.dataset.test_max_new_tokens


def test_an_answer_is_as_long_as_a_legacy_protocol_allows(tmp_path: Path):
    config = tiny_run(tmp_path)
    legacy = replace(config.evaluation, protocol="legacy.toplora")
    assert find_decoding(replace(config, evaluation=legacy), {}).max_new_tokens == 256


def test_given_settings_replace_them(tmp_path: Path):
    given = {"max_new_tokens": "7", "temperature": "0.5", "top_p": "0.9", "seed": "3"}
    decoding = find_decoding(tiny_run(tmp_path), given)
    assert decoding == Decoding(7, 64, 0.5, 0.9, 3)
    assert decoding.sampling == {"temperature": 0.5, "top_p": 0.9, "top_k": 0}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"max_new_tokens": "0"}, "max_new_tokens must be"),
        ({"temperature": "nan"}, "temperature must be"),
        ({"temperature": "1", "top_p": "1.5"}, "top_p must be"),
        ({"top_p": "0.5"}, "top_p applies to sampling; give temperature=0.7"),
        ({"temperature": "0", "seed": "3"}, "seed applies to sampling"),
    ],
)
def test_a_wrong_or_useless_value_is_named(given: dict, line: str, tmp_path: Path):
    with pytest.raises(UserError) as error:
        find_decoding(tiny_run(tmp_path), given)
    assert str(error.value).startswith(line)


def test_a_head_generates_nothing(tmp_path: Path):
    task = TaskSettings(
        name="pairs", source="x.jsonl", kind="classify", text="a", label="b", choices=["0", "1"]
    )
    with pytest.raises(UserError, match="trained a head for pairs"):
        find_decoding(replace(tiny_run(tmp_path), task={"pairs": task}), {})
