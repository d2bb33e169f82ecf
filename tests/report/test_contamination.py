from tests.report.made_up import made_up_predictions, made_up_report, task_score
from toplora_train.evaluation.statistics import wilson_interval
from toplora_train.report.contamination import clean_scores, contamination_text
from toplora_train.report.record import ReportData


def report(contamination):
    data = ReportData("a", 1, "f", 0, 1, contamination)
    return made_up_report(data=data, tasks={"a": task_score(), "b": task_score()}).to_dict()


SEEN = {"a": {"rows": 3, "ids": ["test-0", "test-1", "test-20"]}, "b": {"rows": 0, "ids": []}}


def test_not_checked_differs_from_none_found():
    assert contamination_text(report(None)) == "not checked"
    assert contamination_text(report({"b": SEEN["b"]})) == "none found"
    assert contamination_text(report(SEEN)) == "a: 3 of 400"


def test_the_clean_score_leaves_out_rows_that_were_trained_on():
    predictions = {name: made_up_predictions(right=14, wrong=12) for name in "ab"}
    assert clean_scores(report(SEEN), predictions) == {
        "a": {"value": 12 / 23, "ci95": wilson_interval(12, 23), "n": 23}
    }


def test_a_fully_contaminated_task_has_no_clean_score():
    every = [p.id for p in made_up_predictions(2, 2)]
    seen = {"a": {"rows": 4, "ids": every}}
    assert clean_scores(report(seen), {"a": made_up_predictions(2, 2)}) == {}
    assert clean_scores(report(None), {}) == {}
