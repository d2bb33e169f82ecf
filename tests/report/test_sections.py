from dataclasses import replace

from tests.report.made_up import made_up_predictions, made_up_report, task_score
from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.statistics import wilson_interval
from toplora_train.report.pages import render_html, render_markdown
from toplora_train.report.record import ReportData
from toplora_train.report.sections import (
    clean_scores,
    confusion,
    contamination_text,
    cut_off_text,
    expected_table,
    matching,
)


def report(contamination):
    data = ReportData("a", 1, "f", 0, 1, contamination)
    return made_up_report(data=data, tasks={"a": task_score(), "b": task_score()}).to_dict()


SEEN = {"a": {"rows": 3, "ids": ["test-0", "test-1", "test-20"]}, "b": {"rows": 0, "ids": []}}


def test_not_checked_differs_from_none_found():
    assert contamination_text(report(None)) == "not checked"
    assert contamination_text(report({"b": SEEN["b"]})) == "none found"
    assert contamination_text(report(SEEN)) == "a: 3 of 400"


def test_answers_that_were_cut_off_are_counted_by_task_and_model():
    cut = replace(task_score(), cut_off=12, base_cut_off=300)
    none = replace(task_score(), cut_off=0, base_cut_off=0)
    assert cut_off_text(made_up_report(tasks={"a": none, "b": task_score()}).to_dict()) == ""
    found = made_up_report(tasks={"a": cut, "b": none}).to_dict()
    assert cut_off_text(found) == (
        "Cut off at max_new_tokens and scored on the text up to there: "
        "a, 12 of 400 answers, 300 of the base model's."
    )
    assert "12 of 400 answers, 300 of the base" in render_markdown(found, {})
    assert "12 of 400 answers, 300 of the base" in render_html(found, [], {})


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


def test_the_confusion_matrix_counts_each_label_and_prediction():
    def judged(label, predicted):
        scores = {"no": 0.5, "yes": 0.5}
        return Prediction("1", "?", predicted, predicted, label, label == predicted, scores)

    pairs = [("no", "no"), ("no", "yes"), ("yes", "yes"), ("no", "yes")]
    table = confusion([judged(*pair) for pair in pairs])
    assert table == (["no", "yes"], [[1, 2], [0, 1]])
    assert confusion(made_up_predictions(right=1, wrong=1)) is None
    assert confusion([judged("no", "no")], most=1) is None


PUBLISHED = {
    "adapter": "toplora",
    "r": 8,
    "source": "Somebody (arXiv 1)",
    "protocol": "legacy.toplora",
    "scores": {"a": 70.0, "b": 60.0},
    "average": 65.0,
}


def published_beside(tasks=("a", "b"), expected=(PUBLISHED,), protocol="legacy.toplora"):
    scores = {name: task_score(256, 400) for name in tasks}
    report = made_up_report(tasks=scores, expected=list(expected), protocol=protocol)
    return report.to_dict()


def test_published_results_match_by_adapter_and_rank():
    every_rank = PUBLISHED | {"r": None}
    other = PUBLISHED | {"adapter": "lora"}
    published = [PUBLISHED, every_rank, other]
    assert matching(published, {"name": "toplora", "r": 8}) == [PUBLISHED, every_rank]
    assert matching(published, {"name": "toplora", "r": 4}) == [every_rank]
    assert matching(published, {"name": "tenslora"}) == []


def test_our_score_is_shown_with_the_difference_and_the_source():
    source = "Somebody (arXiv 1), protocol legacy.toplora"
    assert expected_table(published_beside()) == [
        ["a", "64.0 %", "70 %", "-6.0", source],
        ["b", "64.0 %", "60 %", "+4.0", source],
        ["mean", "64.0 %", "65 %", "-1.0", source],
    ]


def test_scores_of_another_protocol_have_no_difference():
    for row in expected_table(published_beside(protocol="clean")):
        assert row[3] == "different protocol"


def test_a_mean_over_different_tasks_has_no_difference():
    alone = PUBLISHED | {"scores": {}}
    for rows in (
        expected_table(published_beside(("a",))),
        expected_table(published_beside(expected=[alone])),
    ):
        assert rows[-1][:4] == ["mean", "different tasks", "65 %", ""]


def test_results_started_from_an_adapter_are_compared_only_with_such_runs():
    alone = PUBLISHED | {"start": "the LoRA trained on MNLI"}
    mine = published_beside(expected=[alone])
    source = "Somebody (arXiv 1), protocol legacy.toplora; started from the LoRA trained on MNLI"
    (row, *_) = expected_table(mine)
    assert row[3:] == ["different start", f"{source}, this run from the base model"]
    mine["adapter"]["settings"]["start_from"] = "runs/mnli"
    (row, *_) = expected_table(mine)
    assert row[3:] == ["-6.0", f"{source}, this run from runs/mnli"]


def test_the_section_is_left_out_if_nothing_was_published():
    for render in (lambda r: render_markdown(r, {}), lambda r: render_html(r, [], {})):
        assert "Published numbers" in render(published_beside())
        assert "Published numbers" not in render(published_beside(expected=[]))
    assert "| a | 64.0 % | 70 % | -6.0 |" in render_markdown(published_beside(), {})


def test_an_older_report_without_the_key_has_no_table():
    old = published_beside()
    del old["expected"]
    assert expected_table(old) == []
