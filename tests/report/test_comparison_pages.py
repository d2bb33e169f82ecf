import json
from io import StringIO
from pathlib import Path

from rich.console import Console

from tests.report.test_comparison import seeded, two
from toplora_train.report.comparison import compare_runs
from toplora_train.report.comparison_pages import show_comparison, write_comparison
from toplora_train.report.runs import find_runs


def test_files_and_terminal_agree(tmp_path: Path):
    document = two(tmp_path)
    write_comparison(tmp_path / "out", document)
    console = Console(file=StringIO(), width=160)
    show_comparison(document, console)
    texts = [
        console.file.getvalue(),
        (tmp_path / "out" / "comparison.md").read_text(),
        (tmp_path / "out" / "comparison.html").read_text(),
    ]
    for text in texts:
        assert "toplora vs lora" in text
        assert "this adapter answers better than that one; another seed may not" in text
        assert "this comparison could see a difference of" in text
        assert "not to the methods" in text
        assert "seeds for 1 point" in text
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == document


def test_the_column_of_a_choose_task_says_so(tmp_path: Path):
    document = two(tmp_path)
    document["tasks"]["t"]["kind"] = "choose"
    write_comparison(tmp_path / "out", document)
    markdown = (tmp_path / "out" / "comparison.md").read_text()
    assert "| method | average | t (choose) | u | seeds |" in markdown


def test_many_comparisons_by_task_are_only_in_the_files(tmp_path: Path):
    for adapter, share in (("lora", 0.3), ("dora", 0.5), ("toplora", 0.9), ("genlora", 0.5)):
        seeded(tmp_path / "runs", adapter, [share, share + 0.01])
    document = compare_runs(find_runs([tmp_path / "runs"]))
    console = Console(file=StringIO(), width=160)
    show_comparison(document, console)
    shown = console.file.getvalue()
    assert "6 more tables, by task, are in the files." in shown
    assert "toplora vs lora" in shown
    assert "group" in shown
    write_comparison(tmp_path / "out", document)
    assert "## toplora vs lora, by task" in (tmp_path / "out" / "comparison.md").read_text()
