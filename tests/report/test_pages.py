import base64
import dataclasses
import gzip
import hashlib
import html
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.report.inspected import inspected, inspected_otherwise
from tests.report.made_up import (
    HOSTILE,
    made_up_metrics,
    made_up_predictions,
    made_up_report,
    made_up_run,
    task_score,
)
from toplora_train.config.errors import UserError
from toplora_train.evaluation.predictions import Prediction
from toplora_train.report.pages import (
    headline,
    render_html,
    render_markdown,
    rewrite_pages,
    score_scale,
    verdict,
    write_inspection_page,
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


def scripts(text):
    """The scripts of a page: what runs, and its packed data."""
    return re.findall(r"<script(?: [^>]*)?>(.*?)</script>", text, flags=re.DOTALL)


def answers_of(text):
    data = re.search(r'<script type="text/plain" class="answer-data">([^<]*)<', text)[1]
    return gzip.decompress(base64.b64decode(data)).decode()


def test_the_page_is_well_formed_and_self_contained():
    text = page()
    reader = Balanced()
    reader.feed(text)
    assert reader.open == []
    assert reader.addresses == ["data:,"]
    assert not re.search(r"@import|url\(", text)
    assert not re.search(r'\son\w+="|style="', text)


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else():
    text = page()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    own = [re.search("<style>(.*?)</style>", text, flags=re.DOTALL)[1], scripts(text)[-1]]
    style, script = (
        base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in own
    )
    assert html.unescape(policy) == (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def test_model_output_is_data_and_never_markup():
    evil = Prediction("x", "p", HOSTILE, None, "<b>", False)
    text = page(predictions={"arithmetic": [evil]})
    assert text.count("<script") == 3  # curves, answers, and the page's own
    assert "<script>document.title" not in text
    assert "<script>document.title" in answers_of(text)
    assert not set("\x00\x1b\u202e") & set(text + answers_of(text))


def test_what_a_run_lacks_is_named_and_the_rest_is_shown():
    text = page(metrics=[], predictions={})
    assert "no metrics.jsonl" in text
    assert "no predictions/arithmetic.jsonl" in text
    assert "59.2 to 68.6" in text
    assert "base model's answers are not there" in page()


def test_a_report_of_an_earlier_version_has_a_page_too():
    report = made_up_report().to_dict()
    html = render_html(report | {"environment": {"packages": {"peft": "0.21.2"}}}, [], {})
    assert "0.21.2" in html  # found by make fuzz: there was no device then


def test_settings_that_are_not_set_are_one_line():
    made = made_up_report()
    settings = made.adapter.settings | {"budget": None, "gate": {"eps": None}}
    adapter = dataclasses.replace(made.adapter, settings=settings)
    text = page(dataclasses.replace(made, adapter=adapter))
    assert "Not set: <code>gate.eps</code>, <code>budget</code>." in text
    assert ">null<" not in text


def test_the_picture_of_the_scores_has_only_what_was_measured():
    scored = page(made_up_report(tasks={"a": task_score()}), predictions={})
    headless = page(made_up_report(tasks={"a": task_score(base=None)}), predictions={})
    for text, count in ((scored, 2), (headless, 0)):
        assert text.count('<circle class="base') == count  # the legend's and the task's
    regression = dataclasses.replace(task_score(base=None), kind="regress", metric="pearson")
    negative = dataclasses.replace(regression, value=-0.5, ci95=(-0.75, 0.0))
    scale = score_scale(made_up_report(tasks={"a": negative}).to_dict())
    assert scale == {
        "low": -100,
        "tasks": {"a": {"tuned": [25.0, 12.5, 50.0], "base": None, "majority": None}},
    }


def test_pages_are_written_anew_from_a_finished_runs_files(tmp_path):
    run = made_up_run(tmp_path / "run")
    text = rewrite_pages(run).read_text(encoding="utf-8")
    assert "fixed by the adapter" in text
    assert "resumed after" in text
    assert rewrite_pages(run).read_text(encoding="utf-8") == text
    later = run / "evaluations" / "again"
    later.mkdir(parents=True)
    shutil.copy(run / "report.json", later)
    text = rewrite_pages(later).read_text(encoding="utf-8")
    assert "no predictions/arithmetic.jsonl" in text
    assert "curve-data" in text  # the steps of the run
    shutil.copy(run / "report.json", tmp_path)
    assert "no metrics.jsonl" in rewrite_pages(tmp_path).read_text(encoding="utf-8")


def test_a_run_that_is_not_completed_has_no_pages(tmp_path):
    (tmp_path / "report.json").write_text('{"schema_version": 1, "status": "failed"}')
    with pytest.raises(UserError, match="its status is failed, not completed"):
        rewrite_pages(tmp_path)


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
    assert "arithmetic, rows not trained on" in page
    assert "50.0 %" in page


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
    write_pages(tmp_path, report.to_dict())
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# ")
    reader = Balanced()
    reader.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert reader.open == []


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


MARKUP = '[b]\x1b[31m</td><script>alert("$x^2$")</script>`**|![](http://x)\n# title'


def hostile_report():
    report = made_up_report(
        recipe=MARKUP,
        command=MARKUP,
        protocol=MARKUP,
        notes=[MARKUP],
        model=ReportModel(MARKUP, MARKUP, 1000, MARKUP),
        tasks={MARKUP: task_score()},
        environment={"python": MARKUP, "device": MARKUP, "packages": {MARKUP: MARKUP}},
    )
    settings = report.adapter.settings | {"target_modules": [MARKUP]}
    data = dataclasses.replace(report.data, source=MARKUP, prompt=MARKUP, tokens_from=MARKUP)
    adapter = dataclasses.replace(report.adapter, name=MARKUP, settings=settings)
    return dataclasses.replace(report, adapter=adapter, data=data).to_dict()


def test_text_from_outside_is_never_markup_in_the_pages():
    one = dataclasses.replace(made_up_predictions()[0], id=MARKUP, output=MARKUP, label=MARKUP)
    page = render_html(hostile_report(), made_up_metrics(), {MARKUP: [one]})
    text = render_markdown(hostile_report(), {MARKUP: [one]})
    assert "\x1b" not in page + text
    assert page.count("<script") == 3  # curves, answers, and the page's own
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    assert not re.search('<(script|img src="http)', rendered)
    assert rendered.count("<h1>") == 1


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
def test_a_prompt_is_shown_as_it_was_typed(form):
    made = made_up_report()
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, prompt="Don't ü\n"))
    text = page(made) if form == "html" else render_markdown(made.to_dict(), PREDICTIONS)
    shown = "&#34;Don&#39;t ü\\n&#34;" if form == "html" else '"Don\'t ü\\n"'
    assert shown in text or shown.replace("\\", "\\\\") in text


def test_every_note_begins_a_line():
    made = dataclasses.replace(made_up_report(), notes=["One.", "Two."])
    text = render_markdown(made.to_dict(), PREDICTIONS)
    assert "\n- One.\n- Two.\n\n## Reproduce" in text


@pytest.mark.parametrize("form", ["markdown", "html"])
def test_the_measured_peak_is_shown_with_the_planned_memory(form):
    made = made_up_report()
    train = dataclasses.replace(made.train, planned_memory_bytes=3 * 2**30)
    made = dataclasses.replace(made, train=train)
    text = page(made) if form == "html" else render_markdown(made.to_dict(), PREDICTIONS)
    assert "2.0 GiB" in text
    assert ("3.0 GiB planned" if form == "html" else "plan=true: 3.0 GiB)") in text


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


def test_an_adapter_that_was_not_measured_is_said_to_be(tmp_path):
    text = rewrite_pages(made_up_run(tmp_path)).read_text()
    assert "The adapter was not measured" in text
    assert "toplora-inspect run=DIR" in text
    inspected(tmp_path)
    text = rewrite_pages(tmp_path).read_text()
    assert "The adapter was not measured" not in text
    assert "What the gate does" in text
    assert '<td role="cell" data-label="every gate at one">40.0 %</td>' in text
    assert "+10.0 <span" in text


def test_an_adapter_without_a_run_has_a_page_of_its_own(tmp_path: Path):
    inspected(tmp_path)
    path = write_inspection_page(tmp_path)
    text = path.read_text()
    assert path == tmp_path / "inspection" / "inspection.html"
    assert "<h1>TOPLORA on owner/base</h1>" in text
    assert "4 updated modules in 2 layers" in text
    assert "default-src 'none'" in text
    assert "your text &lt;i&gt;" in text
    assert "<i>" not in text


def test_a_fusions_page_has_its_adapters_weights(tmp_path: Path):
    inspected_otherwise(tmp_path)
    text = write_inspection_page(tmp_path).read_text()
    assert "How the adapters are weighted" in text and "two &lt;i&gt;</th>" in text
    assert "over 40 tokens" in text and "start at 0.50 for all" in text
    assert '<th scope="row">model.layers.0</th><td>0.75 ± 0.10</td><td>0.30 ± 0.20</td>' in text


def test_without_measurements_there_is_no_page(tmp_path: Path):
    with pytest.raises(UserError, match=r"no inspection\.json; measure with toplora-inspect"):
        write_inspection_page(tmp_path)
