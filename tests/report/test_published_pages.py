import csv
from io import StringIO
from pathlib import Path

from rich.console import Console

from tests.report.run_folders import published_run
from toplora_train.report.published import compare_with_table, read_table
from toplora_train.report.published_pages import (
    published_table,
    show_published,
    write_published,
)
from toplora_train.report.runs import find_runs


def filled(folder: Path):
    published_run(folder, "lora", 32, "llama2_7b", {"boolq": [True, False] * 10})
    return compare_with_table(read_table("dora_commonsense"), find_runs([folder]))


def test_a_row_has_the_published_score_with_its_certainty_the_own_and_the_difference(tmp_path):
    table = published_table(filled(tmp_path / "a"))
    assert len(table.rows) == 8 * 9
    texts = [[cell.text for cell in row] for row in table.rows]
    (found,) = (row for row in texts if row[4])
    assert found[:4] == ["Llama 2 7B, LoRA r 32", "boolq", "69.8 %", "certain"]
    assert found[4].startswith("50.0 % (")
    assert found[5].startswith("-19.8 (")
    assert found[6] == "1"
    assert all(row[4:] == ["", "", ""] for row in texts if row is not found)


def test_the_files_and_the_terminal_have_the_same_rows(tmp_path: Path):
    document = filled(tmp_path / "a")
    write_published(tmp_path / "out", "dora", document)
    console = Console(file=StringIO(), width=160)
    show_published(document, console)
    pages = [(tmp_path / "out" / f"dora.{suffix}").read_text() for suffix in ("md", "html", "tex")]
    for text in (console.file.getvalue(), *pages):
        assert text.count("Llama 2 7B, LoRA r 32") == 9
        assert "-19.8 (" in text
    with (tmp_path / "out" / "dora.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 72
    assert [row["value"] for row in rows if row["value"]] == ["0.5"]
