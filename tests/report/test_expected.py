from tests.report.made_up import made_up_report, task_score
from toplora_train.report.expected import expected_table, matching
from toplora_train.report.pages import render_html, render_markdown

PUBLISHED = {
    "adapter": "toplora",
    "r": 8,
    "source": "Somebody (arXiv 1)",
    "protocol": "legacy.toplora",
    "scores": {"a": 70.0, "b": 60.0},
    "average": 65.0,
}


def report(tasks=("a", "b"), expected=(PUBLISHED,)):
    scores = {name: task_score(256, 400) for name in tasks}
    return made_up_report(tasks=scores, expected=list(expected)).to_dict()


def test_published_results_match_by_adapter_and_rank():
    every_rank = PUBLISHED | {"r": None}
    other = PUBLISHED | {"adapter": "lora"}
    published = [PUBLISHED, every_rank, other]
    assert matching(published, {"name": "toplora", "r": 8}) == [PUBLISHED, every_rank]
    assert matching(published, {"name": "toplora", "r": 4}) == [every_rank]
    assert matching(published, {"name": "tenslora"}) == []


def test_our_score_is_shown_with_the_difference_and_the_source():
    source = "Somebody (arXiv 1), protocol legacy.toplora"
    assert expected_table(report()) == [
        ["a", "64.0 %", "70 %", "-6.0", source],
        ["b", "64.0 %", "60 %", "+4.0", source],
        ["mean", "64.0 %", "65 %", "-1.0", source],
    ]


def test_a_mean_over_different_tasks_has_no_difference():
    alone = PUBLISHED | {"scores": {}}
    for rows in (expected_table(report(("a",))), expected_table(report(expected=[alone]))):
        assert rows[-1][:4] == ["mean", "different tasks", "65 %", ""]


def test_results_started_from_an_adapter_are_compared_only_with_such_runs():
    alone = PUBLISHED | {"start": "the LoRA trained on MNLI"}
    mine = report(expected=[alone])
    source = "Somebody (arXiv 1), protocol legacy.toplora; started from the LoRA trained on MNLI"
    (row, *_) = expected_table(mine)
    assert row[3:] == ["different start", f"{source}, this run from the base model"]
    mine["adapter"]["settings"]["start_from"] = "runs/mnli"
    (row, *_) = expected_table(mine)
    assert row[3:] == ["-6.0", f"{source}, this run from runs/mnli"]


def test_the_section_is_left_out_if_nothing_was_published():
    for render in (lambda r: render_markdown(r, {}), lambda r: render_html(r, [], {})):
        assert "Published numbers" in render(report())
        assert "Published numbers" not in render(report(expected=[]))
    assert "| a | 64.0 % | 70 % | -6.0 |" in render_markdown(report(), {})


def test_an_older_report_without_the_key_has_no_table():
    old = report()
    del old["expected"]
    assert expected_table(old) == []
