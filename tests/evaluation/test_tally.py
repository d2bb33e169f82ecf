import pytest

from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.statistics import wilson_interval
from toplora_train.evaluation.tally import tally

NAMES = ["a", "b", "c", "d"]
TEXTS = [f"{name}?" for name in NAMES]


def judge(index, output, scores):
    return Prediction(NAMES[index], TEXTS[index], output, output, "yes", output == "yes", scores)


def answer_backwards(asked):
    for place in reversed(range(len(asked))):
        yield place, "yes" if asked[place] % 2 else "no", {"yes": float(place)}


def test_answers_may_come_in_any_order_and_stand_in_the_rows():
    given, progress = [], []
    score, predictions = tally(
        NAMES,
        TEXTS,
        ask=answer_backwards,
        judge=judge,
        on_prediction=given.append,
        on_progress=lambda *state: progress.append(state),
    )
    assert [p.id for p in predictions] == NAMES
    assert [p.correct for p in predictions] == [False, True, False, True]
    assert [p.id for p in given] == NAMES[::-1]
    assert progress == [(1, 4, 1), (2, 4, 1), (3, 4, 2), (4, 4, 2)]
    assert (score.value, score.n, score.ci95) == (0.5, 4, wilson_interval(2, 4))


def test_finished_rows_are_judged_anew_and_not_asked():
    finished = {
        "a": Prediction("a", "a?", "yes", None, "?", False, {"yes": 3.0}),
        "b": Prediction("b", "another prompt", "no", None, "?", False),
    }
    asked = []

    def ask(rows):
        asked.extend(rows)
        return answer_backwards(rows)

    score, predictions = tally(NAMES, TEXTS, ask=ask, judge=judge, finished=finished)
    assert asked == [1, 2, 3]
    assert predictions[0] == Prediction("a", "a?", "yes", "yes", "yes", True, {"yes": 3.0})
    assert score.value == pytest.approx(0.75)


def test_where_all_is_finished_nobody_is_asked():
    finished = {p.id: p for p in tally(NAMES, TEXTS, ask=answer_backwards, judge=judge)[1]}

    def ask(_rows):
        raise AssertionError("asked")

    assert tally(NAMES, TEXTS, ask=ask, judge=judge, finished=finished)[0].value == 0.5
