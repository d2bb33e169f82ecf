import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.run.conftest import tiny_run
from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig, TaskSettings
from toplora_train.models.tiny import MAX_POSITIONS
from toplora_train.run.prepare.objective import load_base
from toplora_train.run.prepare.run_data import prepare
from toplora_train.run.prepare.validate_rows import validate_rows


def refuse(config: RunConfig) -> None:
    run_data = prepare(config, weights=False)
    model = load_base(config, run_data.location, run_data.objective.head, meta=True)
    validate_rows(model, run_data)


def asking(folder: Path, row: dict[str, str], **settings) -> RunConfig:
    path = folder / "rows.jsonl"
    path.write_text(json.dumps({"instruction": "Is it?"} | row) + "\n")
    task = TaskSettings(name="t", source=str(path), **settings)
    return tiny_run(folder, task={"t": task})


CHOICE = {"extraction": "choice", "choices": ["yes", "no"], "response": "It is {answer}."}


def test_rows_that_fit_are_accepted(tmp_path: Path):
    refuse(tiny_run(tmp_path))
    refuse(asking(tmp_path, {"answer": "yes"}, kind="choose", **CHOICE))


@pytest.mark.parametrize("kind", ["generate", "choose"])
def test_a_label_outside_the_choices_is_found_before_any_training(tmp_path: Path, kind: str):
    with pytest.raises(
        UserError, match=r"rows.jsonl, line 1: its answer 'maybe' is none of .* yes, no"
    ):
        refuse(asking(tmp_path, {"answer": "maybe"}, kind=kind, **CHOICE))


def test_a_label_that_is_not_a_number_is_found(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"rows\.jsonl, line 1: its answer 'often' is not one number"
    ):
        refuse(asking(tmp_path, {"answer": "often"}, extraction="number"))


def test_an_extraction_that_does_not_fit_the_rows_own_outputs_is_found_with_its_key(tmp_path: Path):
    row = {"output": "1 + 1 = 2.", "answer": "2"}
    config = asking(tmp_path, row)
    with pytest.raises(
        UserError, match=r"rows\.jsonl, line 1: .*; set task\.t\.extraction=number$"
    ):
        refuse(config)
    own = replace(config.dataset, test=config.task["t"].source)
    with pytest.raises(UserError, match=r"; set dataset\.test_extraction=number$"):
        refuse(replace(config, dataset=own, task={}))
    refuse(replace(config, dataset=replace(own, test_extraction="number"), task={}))


def test_a_prompt_longer_than_the_positions_is_found(tmp_path: Path):
    row = {"instruction": "x" * MAX_POSITIONS, "answer": "y"}
    with pytest.raises(
        UserError, match=rf"rows.jsonl, line 1: its prompt of .* {MAX_POSITIONS} positions"
    ):
        refuse(asking(tmp_path, row))


def test_a_training_row_longer_than_the_positions_is_found(tmp_path: Path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"instruction": "Go.", "output": "x" * MAX_POSITIONS}) + "\n")
    config = tiny_run(tmp_path)
    dataset = replace(config.dataset, train=str(path), max_length=2 * MAX_POSITIONS)
    with pytest.raises(
        UserError, match=rf"1 rows are longer .* {MAX_POSITIONS} .*long\.jsonl, line 1"
    ):
        refuse(replace(config, dataset=dataset))


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused_with_the_remedy(tmp_path: Path):
    config = tiny_run(tmp_path)
    run_data = prepare(config, weights=False)
    model = load_base(config, run_data.location, run_data.objective.head, meta=True)
    validate_rows(model, run_data)
    run_data.tokenizer.add_tokens(["<new>", "<newer>"])
    with pytest.raises(
        UserError,
        match=r"has 2 more tokens .* rows \(258\), '<new>' first; .* model\.resize_embeddings=true",
    ):
        validate_rows(model, run_data)
