import json
from io import StringIO
from pathlib import Path

from rich.console import Console

from tests.report.test_comparison import two
from toplora_train.report.comparison_pages import show_comparison, write_comparison


def test_the_files_and_the_terminal_say_the_same(tmp_path: Path):
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
        assert "toplora against lora" in text
        assert "better" in text
        assert "cannot tell; could see" in text
        assert "one seed" in text
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == document


def test_a_chosen_answer_has_a_column_of_its_own_name(tmp_path: Path):
    document = two(tmp_path)
    document["tasks"]["t"]["kind"] = "choose"
    write_comparison(tmp_path / "out", document)
    markdown = (tmp_path / "out" / "comparison.md").read_text()
    assert "| method | average | t (choose) | u | seeds |" in markdown


def test_what_was_not_compared_is_said(tmp_path: Path):
    write_comparison(tmp_path / "out", two(tmp_path, metric="matthews"))
    assert "| t | | | | | not compared |" in (
        tmp_path / "out" / "comparison.md"
    ).read_text().replace("|  |", "| |").replace("|  |", "| |")
