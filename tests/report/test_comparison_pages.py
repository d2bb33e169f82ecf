import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.report.run_folders import run_folder
from tests.report.test_comparison import seeded, two
from toplora_train.report.comparison import compare_runs
from toplora_train.report.comparison_pages import show_comparison, write_comparison
from toplora_train.report.runs import find_runs


def on_terminal(document, width=160):
    console = Console(file=StringIO(), width=width)
    show_comparison(document, console)
    return console.file.getvalue()


def test_files_and_terminal_agree(tmp_path: Path):
    document = two(tmp_path)
    write_comparison(tmp_path / "out", document)
    texts = [
        on_terminal(document),
        (tmp_path / "out" / "comparison.tex").read_text(),
        (tmp_path / "out" / "comparison.md").read_text(),
        (tmp_path / "out" / "comparison.html").read_text(),
    ]
    for text in texts:
        assert "toplora vs lora" in text
        assert "this adapter answers better than that one; another seed may not" in text
        assert "this comparison could see a difference of" in text
        assert "seeds for 1 point" in text
    for text in (texts[0], *texts[2:]):
        assert "not to the methods" in text
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == document


def test_the_column_of_a_choose_task_says_so(tmp_path: Path):
    document = two(tmp_path)
    document["tasks"]["t"]["kind"] = "choose"
    write_comparison(tmp_path / "out", document)
    markdown = (tmp_path / "out" / "comparison.md").read_text()
    assert "| method | average | t (choose) | u | seeds |" in markdown


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory):
    """The runs of four methods, three seeds each."""
    folder = tmp_path_factory.mktemp("runs")
    for adapter, share in (("lora", 0.3), ("dora", 0.5), ("toplora", 0.9), ("genlora", 0.5)):
        seeded(folder, adapter, [share, share + 0.01, share - 0.01])
    return find_runs([folder])


def test_of_many_methods_the_terminal_shows_the_pairs_that_differ(many, tmp_path: Path):
    document = compare_runs(many)
    shown = on_terminal(document)
    assert "5 of 6 pairs differ significantly" in shown
    assert "toplora vs lora" in shown
    assert "genlora vs dora" not in shown
    assert "group" in shown
    assert "by task" not in shown
    write_comparison(tmp_path / "out", document)
    markdown = (tmp_path / "out" / "comparison.md").read_text()
    assert "| genlora vs dora | u |" in markdown


def test_with_a_baseline_every_method_is_a_row(many):
    shown = on_terminal(compare_runs(many, baseline="lora"))
    assert [f"{one} vs lora" in shown for one in ("dora", "toplora", "genlora")] == [True] * 3
    assert "pairs differ" not in shown


def test_long_names_are_shortened_on_the_terminal_only(tmp_path: Path):
    document = two(tmp_path)
    long = "lora adapter.target_modules=[query_projection,key_projection]"
    text = json.dumps(document).replace('"lora"', json.dumps(long))
    document = json.loads(text)
    shown = on_terminal(document)
    assert "lora adapter.target_mod\N{HORIZONTAL ELLIPSIS}ojection]" in shown
    assert "relative to lora adapter.target_mod\N{HORIZONTAL ELLIPSIS}ojection]" in shown
    assert long not in shown
    write_comparison(tmp_path / "out", document)
    assert long in (tmp_path / "out" / "comparison.csv").read_text()


def test_a_name_with_brackets_is_no_markup(tmp_path: Path):
    text = json.dumps(two(tmp_path)).replace('"lora"', '"lora [bold] x=[q]"')
    assert "relative to lora [bold] x=[q]" in on_terminal(json.loads(text))


def test_the_page_is_self_contained_and_its_headings_are_buttons_with_a_sort_state(tmp_path: Path):
    write_comparison(tmp_path / "out", two(tmp_path))
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", page)
    assert page.count('aria-sort="none"><button') + page.count('class="text"><button') == (
        page.count('<th scope="col"')
    )
    assert 'aria-label="Score against trainable parameters"' in page
    assert 'data-number="0.5"' in page


def test_a_name_is_text_in_the_page_and_its_charts(tmp_path: Path):
    runs = tmp_path / "runs"
    for adapter, seconds in (("lora", 0.1), ("dora", 0.2)):
        run_folder(runs / adapter, adapter=adapter, step_seconds=seconds)
    text = json.dumps(compare_runs(find_runs([runs]))).replace('"lora"', r'"<b>\"$x$"')
    write_comparison(tmp_path / "out", json.loads(text))
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert page.count("<svg") == 2
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


def test_a_learning_rate_sweep_has_its_curve(tmp_path: Path):
    for lr, loss in ((1e-3, 2.0), (1e-4, 3.0)):
        run_folder(tmp_path / str(lr), lr=lr, held_out=loss)
    document = compare_runs(find_runs([tmp_path]))
    write_comparison(tmp_path / "out", document)
    assert "Held-out score by learning rate" in (tmp_path / "out" / "comparison.html").read_text()
    shown = on_terminal(document)
    assert "held-out validation loss" in shown
    assert "lies at the grid's edge (1e-3)" in shown
