from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from toplora_train.config.schema import DatasetSettings, EvaluationSettings, TaskSettings
from toplora_train.evaluation.metrics import measure
from toplora_train.evaluation.predictions import read_predictions
from toplora_train.evaluation.run_evaluation import Score
from toplora_train.models.tiny import tiny_model, tiny_tokenizer
from toplora_train.run.assemble.scores import Scorer, in_words
from toplora_train.run.prepare.eval_sets import read_eval_sets

TASK = TaskSettings(
    name="arithmetic",
    source="bundled:arithmetic/test.jsonl",
    extraction="number",
    max_new_tokens=4,
)


def read_tests():
    return read_eval_sets(
        {"arithmetic": TASK}, DatasetSettings(name="d"), EvaluationSettings(limit=5), data_root=None
    )


def score(folder: Path, model, *, weights: str = "a", max_new_tokens: int = 4):
    eval_sets = [replace(one, max_new_tokens=max_new_tokens) for one in read_tests()]
    console = Console(file=StringIO())
    scorer = Scorer(
        tiny_tokenizer(), eval_sets, folder, batch_size=2, autocast_dtype=None, console=console
    )
    scores = scorer.score(model, "base", weights=weights, suffix=".base")
    return scores, console.file.getvalue()


def count_forwards(model) -> list[int]:
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_every_prediction_is_on_disk_and_the_score_is_said(tmp_path: Path):
    scores, said = score(tmp_path, tiny_model())
    predictions = read_predictions(tmp_path / "arithmetic.base.jsonl")
    assert len(predictions) == scores["arithmetic"].n == 5
    assert scores["arithmetic"].value == sum(p.correct for p in predictions) / 5
    assert "base on arithmetic" in said
    assert "95 % interval" in said


def test_answers_that_were_cut_off_are_said(tmp_path: Path):
    scores, said = score(tmp_path, tiny_model())
    assert scores["arithmetic"].cut_off == 5
    assert "5 answers cut off at max_new_tokens" in said


def test_a_task_that_was_finished_before_an_interruption_is_not_asked_again(tmp_path: Path):
    """Neither needs a checkpoint to be there: the file says whose answers it holds."""
    first, _ = score(tmp_path, tiny_model())
    model = tiny_model()
    calls = count_forwards(model)
    again, _ = score(tmp_path, model)
    assert calls == []
    assert again["arithmetic"].value == first["arithmetic"].value
    score(tmp_path, model, weights="b")
    assert calls


def test_answers_of_another_length_are_not_reused(tmp_path: Path):
    score(tmp_path, tiny_model())
    model = tiny_model()
    calls = count_forwards(model)
    score(tmp_path, model, max_new_tokens=6)
    assert calls
    longer = [one.output for one in read_predictions(tmp_path / "arithmetic.base.jsonl")]
    score(tmp_path / "fresh", tiny_model(), max_new_tokens=6)
    fresh = read_predictions(tmp_path / "fresh" / "arithmetic.base.jsonl")
    assert longer == [one.output for one in fresh]


def test_an_interrupted_evaluation_goes_on_only_for_the_same_weights(tmp_path: Path):
    score(tmp_path, tiny_model())
    whole = tmp_path / "arithmetic.base.jsonl"
    lines = whole.read_text().splitlines(keepends=True)

    def interrupted(weights: str) -> int:
        _, _ = score(tmp_path, tiny_model(), weights=weights)
        partial = tmp_path / "arithmetic.base.jsonl.partial"
        answered = read_predictions(whole)
        from toplora_train.evaluation.predictions import PredictionFile
        from toplora_train.run.assemble.scores import _fingerprint

        (eval_set,) = read_tests()
        with PredictionFile(whole, belongs_to=_fingerprint("a", eval_set)) as file:
            for prediction in answered[:3]:
                file.add(prediction)
        assert partial.is_file()
        whole.unlink()
        model = tiny_model()
        calls = count_forwards(model)
        score(tmp_path, model, weights=weights)
        return len(calls)

    # 2 rows at batch size 2 are one batch; 5 rows are three.
    assert interrupted("a") < interrupted("b")
    assert whole.read_text().splitlines(keepends=True) == lines


@pytest.mark.parametrize("labels", [[3.0, 3.0, 3.0], [1.0, 2.0, 3.0]])
def test_constant_targets_have_no_correlation(labels):
    measured = measure("pearson", np.array([0.5, 1.0, 2.5]), np.array(labels))
    said = in_words(Score("pearson", measured.value, 3, measured.ci95, 0.0))
    if len(set(labels)) == 1:
        assert said == (
            "pearson undefined, as the labels or the answers are all the same, on 3 rows, 0.0 s"
        )
    else:
        assert said.startswith(f"pearson {measured.value:.1%}"[:-1])
