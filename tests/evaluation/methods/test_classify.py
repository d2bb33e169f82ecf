import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn import metrics

from tests.evaluation.sets import evaluated_by
from toplora_train.config.errors import UserError
from toplora_train.data.rows import Row
from toplora_train.evaluation.methods.classify import METHOD, head_outputs, score_labels
from toplora_train.evaluation.predictions import Prediction, PredictionFile, read_predictions
from toplora_train.evaluation.run_evaluation import EvalProgress
from toplora_train.models.head import Head
from toplora_train.models.load import load_model
from toplora_train.models.locate import ModelLocation
from toplora_train.models.tiny import tiny_tokenizer

TINY = ModelLocation("toplora-train/tiny", None, "built in")
ANSWERS = ("no", "yes")


def model(choices: tuple[str, ...] = ANSWERS):
    loaded = load_model(TINY, dtype="float32", head=Head(choices, 0))
    with torch.no_grad():
        loaded.score.weight.mul_(50)  # far from a tie
    return loaded


def rows(count: int = 24) -> list[Row]:
    return [
        Row(f"r-{i}", "x" * (1 + 7 * i % 11) + str(i), "y" if i % 2 else "", "", ANSWERS[i % 2])
        for i in range(count)
    ]


def evaluate(
    questions: list[Row], batch_size: int = 7, choices: tuple[str, ...] = ANSWERS, **changes
):
    settings = dict(
        choices=choices, metric="accuracy", max_length=64, overflow="error", batch_size=batch_size
    )
    return evaluated_by(METHOD, model(choices), tiny_tokenizer(), questions, **(settings | changes))


@pytest.mark.parametrize("metric", ["matthews", "f1"])
def test_scores_equal_scikit_learns_on_the_stored_predictions(tmp_path: Path, metric: str):
    with PredictionFile(tmp_path / "rte.jsonl") as file:
        score, predictions = evaluate(rows(), metric=metric, also=["accuracy"])
        file.finish(predictions)
    stored = [json.loads(line) for line in (tmp_path / "rte.jsonl").read_text().splitlines()]
    right = [line["label"] == "yes" for line in stored]
    predicted = [line["prediction"] == "yes" for line in stored]
    oracle = {"matthews": metrics.matthews_corrcoef, "f1": metrics.f1_score}[metric]
    assert score.value == pytest.approx(oracle(right, predicted), abs=1e-9)
    assert score.more["accuracy"].value == pytest.approx(
        metrics.accuracy_score(right, predicted), abs=1e-9
    )
    again = score_labels(
        read_predictions(tmp_path / "rte.jsonl"), choices=ANSWERS, metric=metric, also=["accuracy"]
    )
    assert replace(again, seconds=score.seconds) == score


def test_predictions_are_in_row_order_and_show_the_text():
    questions = rows()
    _, predictions = evaluate(questions)
    assert [prediction.id for prediction in predictions] == [row.id for row in questions]
    assert predictions[3].prompt == f"{questions[3].instruction}\n{questions[3].input}"
    for prediction in predictions:
        assert prediction.scores is not None
        assert max(prediction.scores, key=prediction.scores.__getitem__) == prediction.prediction
        assert sum(prediction.scores.values()) == pytest.approx(1, abs=1e-5)
        assert prediction.correct == (prediction.prediction == prediction.label)


def test_the_batch_size_changes_no_answer():
    texts = {size: [p.output for p in evaluate(rows(), size)[1]] for size in (1, 7, 32)}
    assert texts[1] == texts[7] == texts[32]
    assert len(set(texts[1])) == 2  # else the test proves nothing


def test_head_outputs_equal_the_models_logits():
    examples_model = model()
    tokenizer = tiny_tokenizer()
    _, predictions = evaluate(rows(5))
    for row, prediction in zip(rows(5), predictions, strict=True):
        ids = tokenizer(row.instruction, row.input or None, return_tensors="pt")["input_ids"]
        logits = examples_model(input_ids=ids).logits[0]
        assert prediction.prediction == ANSWERS[int(logits.argmax())]


def test_regression_predictions_have_no_scores():
    questions = [replace(row, answer=str(index / 5)) for index, row in enumerate(rows())]
    score, predictions = evaluate(questions, choices=(), metric="pearson", also=["spearman"])
    assert score.metric == "pearson"
    assert set(score.more) == {"spearman"}
    assert all(prediction.scores is None for prediction in predictions)
    assert all(
        float(prediction.output) == float(prediction.prediction) for prediction in predictions
    )


def test_finished_predictions_are_reused_and_the_score_is_the_same():
    whole, predictions = evaluate(rows())
    asked_again: list[Prediction] = []
    finished = {prediction.id: prediction for prediction in predictions[:20]}
    score, again = evaluate(rows(), progress=EvalProgress(finished, asked_again.append))
    assert {prediction.id for prediction in asked_again} == {f"r-{i}" for i in range(20, 24)}
    assert again == predictions
    assert score.value == whole.value


def test_a_test_row_is_never_left_out():
    long = [*rows(3), Row("long", "z" * 100, "", "", "no")]
    with pytest.raises(UserError, match=r"row 'long' with 100"):
        evaluate(long, overflow="drop")
    score, _ = evaluate(long, overflow="truncate")
    assert score.n == 4


def test_evaluation_restores_training_mode():
    training = model().train()
    assert list(head_outputs(training, [], pad_token_id=0, batch_size=2)) == []
    assert training.training
