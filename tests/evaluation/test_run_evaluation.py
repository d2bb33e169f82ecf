from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.ranks import Ranks
from toplora_train.evaluation.run_evaluation import (
    FRESH,
    Answer,
    EvalProgress,
    Progress,
    run_evaluation,
)
from toplora_train.evaluation.statistics import wilson_interval

NAMES = ["a", "b", "c", "d"]
TEXTS = [f"{name}?" for name in NAMES]
PROMPTS = dict(zip(NAMES, TEXTS, strict=True))
IN_TWOS = {"order": range(4), "lengths": [4, 3, 2, 1], "batch_size": 2}


def score_row(index, output, scores):
    return Prediction(NAMES[index], TEXTS[index], output, output, "yes", output == "yes", scores)


def answer_backwards(pending):
    for place in reversed(range(len(pending))):
        yield Answer(place, "yes" if pending[place] % 2 else "no", {"yes": float(place)})


def test_answers_may_arrive_in_any_order_and_are_returned_in_the_rows():
    given, progress = [], []
    score, predictions = run_evaluation(
        PROMPTS,
        EvalProgress({}, given.append, progress.append),
        **IN_TWOS,
        answer=answer_backwards,
        score=score_row,
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


def test_reused_predictions_are_scored_again_but_not_answered_again():
    finished = {
        "a": Prediction("a", "a?", "yes", None, "?", False, {"yes": 3.0}),
        "b": Prediction("b", "another prompt", "no", None, "?", False),
    }
    pending = []

    def answer(rows):
        pending.extend(rows)
        return answer_backwards(rows)

    score, predictions = run_evaluation(
        PROMPTS, EvalProgress(finished), **IN_TWOS, answer=answer, score=score_row
    )
    assert pending == [1, 2, 3]
    assert predictions[0] == Prediction("a", "a?", "yes", "yes", "yes", True, {"yes": 3.0})
    assert score.value == pytest.approx(0.75)


def test_no_row_is_answered_if_all_predictions_can_be_reused():
    once = run_evaluation(PROMPTS, FRESH, **IN_TWOS, answer=answer_backwards, score=score_row)[1]
    finished = EvalProgress({p.id: p for p in once})

    def answer(_rows):
        raise AssertionError("called")

    assert (
        run_evaluation(PROMPTS, finished, **IN_TWOS, answer=answer, score=score_row)[0].value == 0.5
    )


def test_processes_split_the_batches_and_gather_all_answers():
    """Three ranks as threads, which gather as torch.distributed would."""
    parts, barrier, assigned = {}, Barrier(3, timeout=10), {}

    class Threads(Ranks):
        def gather(self, items):
            parts[self.rank] = items
            barrier.wait()
            return [item for rank in range(self.world_size) for item in parts[rank]]

    names = [f"row {index}" for index in range(11)]
    order = sorted(range(11), key=lambda index: -index)
    finished = {"row 7": Prediction("row 7", "row 7", "yes", "yes", "yes", True)}

    def evaluate(rank):
        def answer(rows):
            assigned[rank] = rows
            return (Answer(place, "yes" if row % 2 else "no") for place, row in enumerate(rows))

        progress = []
        result = run_evaluation(
            dict(zip(names, names, strict=True)),
            EvalProgress(finished, on_progress=progress.append, ranks=Threads(rank, 3)),
            order=order,
            lengths=[1] * 11,
            batch_size=2,
            answer=answer,
            score=lambda index, output, _: Prediction(
                names[index], names[index], output, output, "yes", output == "yes"
            ),
        )
        return result, progress

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(evaluate, range(3)))
    # Batches of the rows not yet answered, in order: 10 9 | 8 6 | 5 4 | 3 2 | 1 0.
    assert assigned == {0: [10, 9, 3, 2], 1: [8, 6, 1, 0], 2: [5, 4]}
    for (score, predictions), progress in found:
        assert [p.id for p in predictions] == names
        assert [p.correct for p in predictions] == [index % 2 == 1 for index in range(11)]
        assert (score.value, score.n) == (5 / 11, 11)
        assert (progress[0].done, progress[0].tokens) == (1, 0)  # the reused prediction
        assert progress[-1].done == progress[-1].total
