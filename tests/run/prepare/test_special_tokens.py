import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.evaluation.methods.base import protocol_of
from toplora_train.run.assemble.run_report import introduction, notes
from toplora_train.run.prepare.run_data import RunData, prepare
from toplora_train.train.checkpoint import TrainState

EOS = 1


@pytest.fixture
def prepared(make_run: Callable, tmp_path: Path) -> Callable[..., RunData]:
    """The introduction and data of a run on one row with a special token, under a setting."""
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"instruction": "Say <eos>!", "output": "ok", "answer": "ok"}))

    def run_data(setting: str, **changes) -> tuple[str, RunData]:
        config = make_run(task={}, **changes)
        dataset = replace(
            config.dataset, train=str(path), test=str(path), special_tokens=setting, max_overlap=1.0
        )
        config = replace(config, dataset=dataset)
        found = prepare(config)
        return introduction(config, found, TrainState()), found

    return run_data


def test_special_tokens_in_rows_are_reported_before_training_and_in_the_report(prepared):
    text, run_data = prepared("keep")
    assert "in the text of the training rows: `<eos>` 1x in 1 row, encoded as the special" in text
    assert "in the text of task test: `<eos>` 1x in 1 row" in text
    assert notes(run_data, None)[0].startswith("Special tokens in the text of the training rows")
    assert run_data.special_tokens.to_dict() == {
        "encoded": "keep",
        "rows": {"the training rows": 1, "task test": 1},
        "tokens": {"the training rows": {"<eos>": 1}, "task test": {"<eos>": 1}},
    }


def test_another_setting_gives_other_tokens_despite_the_cache(prepared):
    (_, kept), (text, as_text), (_, again) = (prepared(one) for one in ("keep", "text", "keep"))
    assert [one.train[0].input_ids.count(EOS) for one in (kept, as_text, again)] == [2, 1, 2]
    assert "encoded as text" in text
    assert protocol_of(kept.eval_sets[0]) != protocol_of(as_text.eval_sets[0])


def test_under_error_a_row_with_a_special_token_is_refused_by_its_line(prepared):
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: contains a special token .*`<eos>` 1x"):
        prepared("error")


def test_a_legacy_protocol_encodes_as_its_scripts_do(prepared, make_run):
    evaluation = replace(make_run().evaluation, protocol="legacy.toplora")
    with pytest.raises(UserError, match=r"^evaluation\.protocol=legacy\.toplora encodes special"):
        prepared("text", evaluation=evaluation)
