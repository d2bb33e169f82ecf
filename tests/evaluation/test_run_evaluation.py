from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.ranks import Ranks
from toplora_train.evaluation.run_evaluation import FRESH, EvalProgress, Progress, run_evaluation
from toplora_train.evaluation.statistics import wilson_interval

NAMES = ["a", "b", "c", "d"]
TEXTS = [f"{name}?" for name in NAMES]
IN_TWOS = {"order": range(4), "lengths": [4, 3, 2, 1], "batch_size": 2}


def judge(index, output, scores):
    return Prediction(NAMES[index], TEXTS[index], output, output, "yes", output == "yes", scores)


def answer_backwards(asked):
    for place in reversed(range(len(asked))):
        yield place, "yes" if asked[place] % 2 else "no", {"yes": float(place)}


def test_answers_may_come_in_any_order_and_stand_in_the_rows():
    given, progress = [], []
    score, predictions = run_evaluation(
        NAMES,
        TEXTS,
        EvalProgress({}, given.append, progress.append),
        **IN_TWOS,
        ask=answer_backwards,
        judge=judge,
    )
    assert [p.id for p in predictions] == NAMES
    assert [p.correct for p in predictions] == [False, True, False, True]
    assert [p.id for p in given] == NAMES[::-1]
    assert progress == [
        Progress(1, 4, 1.0, 1, 9),
        Progress(2, 4, 0.5, 2, 7),
        Progress(3, 4, 2 / 3, 3, 4),
        Progress(4, 4, 0.5, 4, 0),
    ]
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

    score, predictions = run_evaluation(
        NAMES, TEXTS, EvalProgress(finished), **IN_TWOS, ask=ask, judge=judge
    )
    assert asked == [1, 2, 3]
    assert predictions[0] == Prediction("a", "a?", "yes", "yes", "yes", True, {"yes": 3.0})
    assert score.value == pytest.approx(0.75)


def test_where_all_is_finished_nobody_is_asked():
    once = run_evaluation(NAMES, TEXTS, FRESH, **IN_TWOS, ask=answer_backwards, judge=judge)[1]
    finished = EvalProgress({p.id: p for p in once})

    def ask(_rows):
        raise AssertionError("asked")

    assert run_evaluation(NAMES, TEXTS, finished, **IN_TWOS, ask=ask, judge=judge)[0].value == 0.5


def test_several_share_the_batches_and_all_have_all_answers():
    """Three ranks as threads, which exchange what torch would exchange between processes."""
    parts, barrier, asked = {}, Barrier(3, timeout=10), {}

    class Threads(Ranks):
        def gather(self, mine):
            parts[self.rank] = mine
            barrier.wait()
            return [item for rank in range(self.world_size) for item in parts[rank]]

    names = [f"row {index}" for index in range(11)]
    order = sorted(range(11), key=lambda index: -index)
    finished = {"row 7": Prediction("row 7", "row 7", "yes", "yes", "yes", True)}

    def answer(rank):
        def ask(rows):
            asked[rank] = rows
            return ((place, "yes" if row % 2 else "no", None) for place, row in enumerate(rows))

        progress = []
        result = run_evaluation(
            names,
            names,
            EvalProgress(finished, on_progress=progress.append, ranks=Threads(rank, 3)),
            order=order,
            lengths=[1] * 11,
            batch_size=2,
            ask=ask,
            judge=lambda index, output, _: Prediction(
                names[index], names[index], output, output, "yes", output == "yes"
            ),
        )
        return result, progress

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(answer, range(3)))
    # Batches of the rows that are left, in their order: 10 9 | 8 6 | 5 4 | 3 2 | 1 0.
    assert asked == {0: [10, 9, 3, 2], 1: [8, 6, 1, 0], 2: [5, 4]}
    for (score, predictions), progress in found:
        assert [p.id for p in predictions] == names
        assert [p.correct for p in predictions] == [index % 2 == 1 for index in range(11)]
        assert (score.value, score.n) == (5 / 11, 11)
        assert (progress[0].done, progress[0].tokens) == (1, 0)  # what was taken over
        assert progress[-1].done == progress[-1].total
