"""The test of a task of one's own: its prompt and its extraction, on a row and in a run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from toplora_train.api import train
from toplora_train.config.keywords import compose_run
from toplora_train.config.plugins import load_plugins
from toplora_train.data.prompts import row_prompt
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.methods.base import protocol_of
from toplora_train.evaluation.predictions import read_predictions
from toplora_train.run.prepare.eval_sets import read_eval_sets

FOLDER = Path(__file__).parent


@pytest.fixture
def capitals(tmp_path: Path) -> EvalSet:
    rows = tmp_path / "capitals.jsonl"
    rows.write_text(json.dumps({"country": "new {zealand}", "capital": "Wellington"}) + "\n")
    words = ["recipe=smoke", "task=[capitals]", f"task.capitals.source={rows}"]
    config = compose_run(words, [FOLDER])
    load_plugins(config.plugins, config.config_dirs)
    dataset = replace(config.dataset, test=None)
    return read_eval_sets(config.task, dataset, config.evaluation, data_root=None)[0]


def test_the_prompt_is_the_functions(capitals: EvalSet):
    assert row_prompt(capitals.rows.rows[0]) == "Name the capital of New {Zealand}.\n"


@pytest.mark.parametrize(
    ("text", "correct"), [("It is WELLINGTON!", True), ("Wellington is it", False), ("", False)]
)
def test_the_last_word_counts(capitals: EvalSet, text: str, correct: bool):
    found = capitals.protocol.extract(text, capitals.extraction, ())
    assert capitals.protocol.is_correct(found, "Wellington", capitals.extraction) is correct


def test_scores_of_other_code_are_not_comparable(capitals: EvalSet):
    """The protocol's hash has the digest of the module."""
    assert len(protocol_of(capitals)["modules"]["capitals"]) == 64


def test_a_run_trains_and_scores_with_them(tmp_path: Path):
    rows, learned = tmp_path / "capitals.jsonl", tmp_path / "learned.jsonl"
    rows.write_text(json.dumps({"country": "france", "capital": "Paris"}) + "\n")
    learned.write_text(json.dumps({"country": "peru", "capital": "Lima"}) + "\n")
    run = train(
        recipe="smoke",
        config_dir=FOLDER,
        dataset={
            "name": "jsonl",
            "train": str(learned),
            "fields": {"instruction": "country", "output": "capital"},
            "prompt": "quiz",
        },
        task={"capitals": {"source": str(rows)}},
        trainer={"max_steps": 1},
        output_dir=tmp_path / "run",
    )
    (prediction,) = read_predictions(run.folder / "predictions" / "capitals.jsonl")
    assert prediction.prompt == "Name the capital of France.\n"
