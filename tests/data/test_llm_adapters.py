"""The table of LLM-Adapters' files matches the real files, and can be extended."""

import json
from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.download import blob_id
from toplora_train.data.llm_adapters import BASE_URL, COMMIT, address, known_files

FILES = known_files()


def test_the_table_has_the_published_training_and_test_sets():
    sets = ("commonsense_15k", "commonsense_170k", "math_7k", "math_10k", "math_14k")
    assert {f"ft-training_set/{name}.json" for name in sets} <= FILES.keys()
    assert sum(path.endswith("/test.json") for path in FILES) == 16
    assert len({file.blob for file in FILES.values()}) == len(FILES)


@pytest.mark.parametrize("path", [path for path in FILES if path.endswith("/test.json")])
def test_the_real_files_have_the_tables_ids_sizes_and_rows(shared_dir, path):
    file = shared_dir / "data" / "llm-adapters" / path
    if not file.exists():
        pytest.skip(f"not at hand: {file}")
    known = FILES[path]
    assert (known.blob, known.size) == (blob_id(file), file.stat().st_size)
    assert known.rows == len(json.loads(file.read_text()))


def test_files_come_from_one_commit_or_from_a_mirror_of_it(monkeypatch):
    assert address("a/b.json") == f"{BASE_URL}/a/b.json"
    assert COMMIT in BASE_URL
    monkeypatch.setenv("TOPLORA_LLM_ADAPTERS_URL", "http://mirror.example/llm/")
    assert address("a/b.json") == "http://mirror.example/llm/a/b.json"


def test_a_custom_table_adds_files_and_replaces_entries(tmp_path, monkeypatch):
    path = "dataset/boolq/test.json"
    table = tmp_path / "more.tsv"
    table.write_text(f"# mine\n\n{'0' * 40}\t7\t-\t-\t{path}\n{'1' * 40}\t-\t5\tMIT\tmy/own.json\n")
    monkeypatch.setenv("TOPLORA_LLM_ADAPTERS_TABLE", str(table))
    files = known_files()
    assert (files[path].blob, files[path].size, files[path].rows) == ("0" * 40, 7, None)
    assert (files["my/own.json"].rows, files["my/own.json"].licence) == (5, "MIT")
    assert len(files) == len(FILES) + 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "x.json",
            "more.tsv, line 2: needs the tab-separated columns git blob id, bytes, rows, licence",
        ),
        (f"{'0' * 39}\t1\t1\tMIT\tx.json", "line 2: needs the tab-separated columns"),
        (f"{'0' * 40}\tmany\t1\tMIT\tx.json", "line 2: needs the tab-separated columns"),
        (f"{'0' * 40}\t1\t1\tMIT\t../x.json", r"line 2: '\.\./x\.json' is not a path inside"),
    ],
)
def test_a_malformed_table_is_an_error_that_names_the_line(tmp_path, monkeypatch, line, message):
    table = tmp_path / "more.tsv"
    table.write_text(f"# mine\n{line}\n")
    monkeypatch.setenv("TOPLORA_LLM_ADAPTERS_TABLE", str(table))
    with pytest.raises(UserError, match=message):
        known_files()


def test_a_missing_table_is_an_error_that_names_the_variable(monkeypatch):
    monkeypatch.setenv("TOPLORA_LLM_ADAPTERS_TABLE", str(Path("/nowhere/more.tsv")))
    with pytest.raises(UserError, match=r"TOPLORA_LLM_ADAPTERS_TABLE=.*tsv: cannot be read"):
        known_files()
