import dataclasses
import html
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from tests.report.made_up import (
    made_up_metrics,
    made_up_predictions,
    made_up_report,
    task_score,
)
from toplora_train.report.pages import (
    headline,
    render_html,
    render_markdown,
    verdict,
    write_pages,
)
from toplora_train.report.record import ReportModel

PREDICTIONS = {"arithmetic": made_up_predictions()}
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Balanced(HTMLParser):
    """Fails on a closing tag without an opening one, and collects all attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, _):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page(report=None, metrics=None, predictions=PREDICTIONS):
    report = (report or made_up_report()).to_dict()
    return render_html(report, made_up_metrics() if metrics is None else metrics, predictions)


def test_the_headline_has_base_tuned_and_the_interval_of_the_gain():
    line = headline(made_up_report().to_dict())
    assert re.fullmatch(
        r"Base 12\.0 % → tuned 64\.0 % "
        r"\(\+52\.0 points, paired 95 % interval \+4[67]\.\d to \+5[67]\.\d\)",
        line,
    )


def test_the_headline_of_several_tasks_says_that_it_is_a_mean():
    report = made_up_report(tasks={"a": task_score(), "b": task_score(100, 400, 80)}).to_dict()
    assert headline(report).startswith("Base 16.0 % → tuned 44.5 % on average (+28.5 points")


def test_without_the_base_model_the_headline_claims_no_gain():
    report = made_up_report(tasks={"a": task_score(base=None)}).to_dict()
    assert re.fullmatch(r"Tuned 64\.0 % \(95 % interval 59\.\d to 68\.\d\)", headline(report))
    assert "the gain is unknown" in verdict(report)


def test_without_tasks_the_headline_says_so():
    report = made_up_report(tasks={}).to_dict()
    assert headline(report) == "Trained, not evaluated"


@pytest.mark.parametrize(
    ("tuned", "base", "word"), [(64, 12, "better"), (12, 64, "worse"), (30, 29, "not significant")]
)
def test_the_verdict_follows_the_interval(tuned, base, word):
    report = made_up_report(tasks={"a": task_score(tuned, 100, base)}).to_dict()
    assert word in verdict(report)


def test_the_page_is_well_formed_and_self_contained():
    reader = Balanced()
    reader.feed(page())
    assert reader.open == []
    assert "script" not in reader.tags
    assert reader.tags.count("svg") == 2
    assert all(address.startswith("#") for address in reader.addresses)
    assert not re.search(r"@import|url\((?!#)", page())


def test_model_output_is_escaped():
    predictions = made_up_predictions()
    evil = predictions[0].__class__("x", "p", "<script>alert(1)</script>", None, "<b>", False)
    text = page(predictions={"arithmetic": [evil]})
    assert "<script>" not in text
    assert html.escape("<script>alert(1)</script>") in text
    assert "nothing (no answer found in the output)" in text


@pytest.mark.parametrize("form", ["markdown", "html"])
def test_both_formats_have_data_cost_scores_and_checks(form):
    report = made_up_report(notes=["a note of the run"]).to_dict()
    text = {
        "markdown": render_markdown(report, PREDICTIONS),
        "html": render_html(report, made_up_metrics(), PREDICTIONS),
    }[form]
    for expected in (
        "+52.0 points",
        "64.0 %",
        "59.2 to 68.6",
        "9.2 to 15.6",
        "12,345",
        "2.3100 → 0.4120",
        "5 min 13 s",
        "2.0 GiB",
        "ab" * 32,
        "2 truncated, 5 dropped",
        "not checked",
        "logits differ from the trained model's by at most 0",
        "a note of the run",
        "toplora-train recipe=smoke seed=3",
        "0123456789abcdef",
        "gate.activation",
        "gate.name",
        "0.21.2",
        "10 correct",
        "10 wrong",
    ):
        assert expected in text.replace("\\_", "_").replace("&#39;", "'"), expected


def test_a_contaminated_task_has_a_second_score_on_clean_rows():
    seen = {"arithmetic": {"rows": 2, "ids": ["test-0", "test-1"]}}
    data = dataclasses.replace(made_up_report().data, contamination=seen)
    report = made_up_report(data=data).to_dict()
    markdown = render_markdown(report, PREDICTIONS)
    assert "| arithmetic, rows not trained on | | 50.0 % |" in markdown
    assert "arithmetic: 2 of 400" in markdown
    page = render_html(report, [], PREDICTIONS)
    assert "arithmetic, rows not trained on</th><td></td><td>50.0 %</td>" in page


def test_an_adapter_that_was_not_reloaded_is_reported_as_such():
    report = made_up_report(reload=None).to_dict()
    assert "was not reloaded" in render_markdown(report, PREDICTIONS)
    assert "was not reloaded" in render_html(report, [], PREDICTIONS)


@pytest.mark.parametrize(
    "report",
    [
        made_up_report(tasks={}),
        made_up_report(tasks={"a": task_score(base=None), "b": task_score()}),
        made_up_report(recipe=None, reload=None),
    ],
)
def test_reports_of_every_kind_are_written(tmp_path, report):
    write_pages(tmp_path, report.to_dict(), [], {})
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# ")
    reader = Balanced()
    reader.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert reader.open == []


def test_the_charts_linked_in_the_markdown_exist(tmp_path):
    write_pages(tmp_path, made_up_report().to_dict(), made_up_metrics(), PREDICTIONS)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(shown) == 2
    for address in shown:
        ElementTree.parse(tmp_path / address)


def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head():
    tasks = {"a|b": task_score(), "c": task_score(base=None)}
    text = render_markdown(made_up_report(tasks=tasks).to_dict(), PREDICTIONS)
    table = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            table.append(len(re.findall(r"(?<!\\)\|", line)))
        elif table:
            assert len(set(table)) == 1, line
            table = []


HOSTILE = '[b]\x1b[31m</td><script>alert("$x^2$")</script>`**|![](http://x)\n# title'


def hostile_report():
    report = made_up_report(
        recipe=HOSTILE,
        command=HOSTILE,
        protocol=HOSTILE,
        notes=[HOSTILE],
        model=ReportModel(HOSTILE, HOSTILE, 1000, HOSTILE),
        tasks={HOSTILE: task_score()},
        environment={"python": HOSTILE, "device": HOSTILE, "packages": {HOSTILE: HOSTILE}},
    )
    settings = report.adapter.settings | {"target_modules": [HOSTILE]}
    data = dataclasses.replace(report.data, source=HOSTILE, prompt=HOSTILE, tokens_from=HOSTILE)
    adapter = dataclasses.replace(report.adapter, name=HOSTILE, settings=settings)
    return dataclasses.replace(report, adapter=adapter, data=data).to_dict()


def test_text_from_outside_is_never_markup_in_the_pages(tmp_path):
    one = dataclasses.replace(made_up_predictions()[0], id=HOSTILE, output=HOSTILE, label=HOSTILE)
    write_pages(tmp_path, hostile_report(), made_up_metrics(), {HOSTILE: [one]})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for written in (page, text, (tmp_path / "figures" / "scores.svg").read_text(encoding="utf-8")):
        assert "\x1b" not in written
    assert "<script" not in page
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    assert not re.search('<(script|img src="http)', rendered)
    assert rendered.count("<h1>") == 1
    ElementTree.parse(tmp_path / "figures" / "scores.svg")


def test_the_answering_method_is_shown_with_every_score():
    tasks = {
        "a": task_score(),
        "b": dataclasses.replace(task_score(), answered="chosen by likelihood"),
    }
    markdown = render_markdown(made_up_report(tasks=tasks).to_dict(), {})
    assert "| a | generated | 64.0 % |" in markdown
    assert "| b | chosen by likelihood | 64.0 % |" in markdown


@pytest.mark.parametrize("base", [80, None], ids=["with", "without"])
def test_the_mean_is_shown_with_its_baselines(base):
    tasks = {"a": task_score(base=base), "b": task_score(correct=128, base=base)}
    line = next(
        line
        for line in render_markdown(made_up_report(tasks=tasks).to_dict(), {}).splitlines()
        if line.startswith("| **mean**")
    )
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == "48.0 %"
    assert cells[4] == ("" if base is None else "20.0 %")
    assert bool(cells[5]) is (base is not None)
    assert cells[6] == "6.0 %"
    assert len(cells) == 9


def test_a_legacy_protocol_is_named_with_its_count_of_mismatches():
    data = dataclasses.replace(made_up_report().data, prompt_mismatches=17)
    report = made_up_report(protocol="legacy.toplora", data=data).to_dict()
    for page in (render_markdown(report, {}), render_html(report, [], {})):
        assert "for reproduction only" in page
        assert "17 of" in page
        assert "Every training row starts" not in page


@pytest.mark.parametrize("form", ["markdown", "html"])
def test_the_measured_peak_is_shown_with_the_planned_memory(form):
    made = made_up_report()
    train = dataclasses.replace(made.train, planned_memory_bytes=3 * 2**30)
    made = dataclasses.replace(made, train=train)
    text = page(made) if form == "html" else render_markdown(made.to_dict(), PREDICTIONS)
    assert "2.0 GiB" in text
    assert ("3.0 GiB planned" if form == "html" else "itself: 3.0 GiB)") in text


def test_the_data_section_has_prompt_format_tokens_and_supervised_share():
    made = made_up_report()
    newer = {"wording": "chat", "supervised_share": 0.25, "tokens_from": "from the cache"}
    with_all = made_up_report(data=dataclasses.replace(made.data, **newer)).to_dict()
    from_older = made.to_dict()
    for key in newer:
        del from_older["data"][key]
    for render in (render_markdown, lambda report, _: render_html(report, [], {})):
        for words in ("model's chat template", "25.0 % of the rows", "from the cache"):
            assert words in render(with_all, {})
            assert words not in render(from_older, {})
