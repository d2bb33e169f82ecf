"""A source gives the same rows wherever they are stored, or a helpful error."""

import hashlib
import json
import re

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.loopback import serving
from toplora_train.config.errors import UserError
from toplora_train.data.rows import content_hash
from toplora_train.data.sources import read_rows, read_union

ROWS = [
    {"instruction": f"Say {number}.", "input": "", "output": f"{number}", "answer": f"{number}"}
    for number in range(5)
]

# Sizes of the real files, if available.
TEST_FILES = {
    "boolq": 3270,
    "piqa": 1838,
    "social_i_qa": 1954,
    "winogrande": 1267,
    "ARC-Challenge": 1172,
    "openbookqa": 500,
    "AddSub": 395,
    "MultiArith": 600,
    "SVAMP": 1000,
    "gsm8k": 1319,
    "AQuA": 254,
}
TRAIN_FILES = {"commonsense_sample_15k": 15001, "gsm8k_train_7k": 7473}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_lines(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_same_rows_are_equal_in_every_format(tmp_path):
    lines = write_lines(tmp_path / "rows.jsonl")
    whole = tmp_path / "rows.json"
    whole.write_text(json.dumps(ROWS, indent=2))
    table = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), table)
    found = [read_rows(str(path)) for path in (lines, whole, table)]
    assert found[0].rows == found[1].rows == found[2].rows
    assert len({one.sha256 for one in found}) == 1
    assert [row.id for row in found[0].rows] == [f"rows-{number}" for number in range(1, 6)]
    assert found[0].source == str(lines)
    assert found[0].sha256 == content_hash(found[0].rows)


def test_a_relative_path_is_reported_as_an_absolute_one(tmp_path, monkeypatch):
    write_lines(tmp_path / "data" / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    assert read_rows("data/rows.jsonl").source == str(tmp_path / "data" / "rows.jsonl")


def test_a_tilde_is_expanded(tmp_path, monkeypatch):
    write_lines(tmp_path / "rows.jsonl")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(read_rows("~/rows.jsonl").rows) == 5


def test_a_folder_gives_the_rows_of_its_files(tmp_path):
    write_lines(tmp_path / "set" / "a.jsonl", ROWS[:2])
    write_lines(tmp_path / "set" / "b.jsonl", ROWS[2:])
    found = read_rows(str(tmp_path / "set"))
    assert [row.output for row in found.rows] == ["0", "1", "2", "3", "4"]
    assert found.source == str(tmp_path / "set")


def test_llm_adapters_files_are_looked_up_in_data_root(tmp_path):
    path = write_lines(tmp_path / "llm-adapters" / "dataset" / "boolq" / "test.jsonl")
    found = read_rows("llm-adapters:dataset/boolq/test.jsonl", data_root=tmp_path)
    assert (len(found.rows), found.source) == (5, str(path))


def test_a_missing_llm_adapters_file_is_an_error_that_names_the_paths(tmp_path):
    own = re.escape(str(tmp_path / "llm-adapters" / "dataset" / "boolq" / "test.json"))
    with pytest.raises(UserError, match=rf"put the file at .*boolq/test\.json, or at {own}$"):
        read_rows("llm-adapters:dataset/boolq/test.json", data_root=tmp_path)
    with pytest.raises(UserError, match=r"or at FOLDER/llm-.*/boolq/test\.json and set data_root="):
        read_rows("llm-adapters:dataset/boolq/test.json")


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A mirror of two files, both in a custom table, and an empty cache."""
    files = {
        name: json.dumps(ROWS).encode()
        for name in ("dataset/boolq/test.json", "ft-training_set/commonsense_15k.json")
    }
    lines = [f"{git_blob(content)}\t-\t5\t-\t{name}\n" for name, content in files.items()]
    (tmp_path / "table.tsv").write_text("".join(lines))
    monkeypatch.setenv("TOPLORA_LLM_ADAPTERS_TABLE", str(tmp_path / "table.tsv"))
    monkeypatch.setenv("TOPLORA_CACHE", str(tmp_path / "kept"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serving(files) as server:
        monkeypatch.setenv("TOPLORA_LLM_ADAPTERS_URL", server.url)
        yield server


def git_blob(content):
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def test_llm_adapters_files_are_downloaded_once(served, tmp_path, monkeypatch):
    sources = [f"llm-adapters:{name}" for name in served.files]
    for source in [*sources, *sources]:
        found = read_rows(source)
        assert len(found.rows) == 5
        name = source.removeprefix("llm-adapters:")
        assert found.source == str(tmp_path / "kept" / "llm-adapters" / name)
    assert [path for path, _ in served.asked] == list(served.files)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert len(read_rows(sources[0]).rows) == 5


def test_a_damaged_cached_file_is_downloaded_again_or_refused(served, tmp_path, monkeypatch):
    source = "llm-adapters:dataset/boolq/test.json"
    kept = tmp_path / "kept" / "llm-adapters" / "dataset" / "boolq" / "test.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps(ROWS[:4]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"test\.json: damaged .*, and HF_HUB_OFFLINE is set"):
        read_rows(source)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert len(read_rows(source).rows) == 5
    assert len(served.asked) == 1


def test_a_mirrors_file_with_wrong_content_is_refused_and_not_kept(served, tmp_path):
    served.files["dataset/boolq/test.json"] = json.dumps(ROWS[:4]).encode()
    with pytest.raises(UserError, match="unexpected content") as caught:
        read_rows("llm-adapters:dataset/boolq/test.json")
    kept = tmp_path / "kept" / "llm-adapters" / "dataset" / "boolq" / "test.json"
    assert f"put the file at {kept}, or at FOLDER/llm-adapters/" in str(caught.value)
    assert not [path for path in (tmp_path / "kept").rglob("*.json*") if path.suffix != ".lock"]


def test_a_hub_id_is_looked_up_in_data_root_first(tmp_path):
    write_lines(tmp_path / "hub" / "owner" / "name" / "train.jsonl")
    write_lines(tmp_path / "hub" / "owner" / "name" / "test.jsonl", ROWS[:2])
    found = read_rows("owner/name", data_root=tmp_path)
    assert (len(found.rows), found.source) == (5, str(tmp_path / "hub" / "owner" / "name"))
    test = read_rows("owner/name", data_root=tmp_path, split="test")
    assert [row.id for row in test.rows] == ["test-1", "test-2"]


def test_a_missing_hub_id_is_an_error_that_names_the_mirror(tmp_path):
    with pytest.raises(UserError, match=r"no mirror at .*hub/owner/name.* set data_root"):
        read_rows("owner/name", data_root=tmp_path)


def test_a_missing_data_root_is_an_error_even_if_it_is_not_needed(tmp_path):
    rows = write_lines(tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match=r"data_root=.*nowhere is not a folder"):
        read_rows(str(rows), data_root=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "source", ["rows.jsonl", "data/rows.json", "/tmp/nowhere/rows", "squad", "hf:squad", "a b/c"]
)
def test_an_invalid_source_is_an_error_that_lists_the_forms(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file or folder; a source is bundled:FILE, llm-"):
        read_rows(source)


def test_an_unknown_bundled_file_lists_the_bundled_ones():
    with pytest.raises(UserError, match=r"it has bundled:arithmetic/test\.jsonl, bundled:arith"):
        read_rows("bundled:arithmetics/train.jsonl")


def test_subset_and_revision_are_not_silently_ignored_for_a_file(tmp_path):
    path = str(write_lines(tmp_path / "rows.jsonl"))
    with pytest.raises(UserError, match="subset=main is for Hub datasets, this is a file"):
        read_rows(path, subset="main")
    with pytest.raises(UserError, match="revision=abc is for Hub datasets, this is local"):
        read_rows(path, revision="abc")


def test_a_local_folder_with_a_subset_is_read_as_a_hub_dataset(tmp_path):
    folder = tmp_path / "set"
    write_lines(folder / "main" / "train.jsonl")
    card = "---\nconfigs:\n- config_name: main\n  data_files: main/train.jsonl\n---\n"
    (folder / "README.md").write_text(card)
    assert len(read_rows(str(folder), subset="main").rows) == 5


def test_limit_uses_the_first_rows_and_hashes_only_those(tmp_path):
    found = read_rows(str(write_lines(tmp_path / "rows.jsonl")), limit=2)
    assert [row.output for row in found.rows] == ["0", "1"]
    assert found.sha256 == content_hash(found.rows)
    assert len(read_rows(found.source, limit=99).rows) == 5


def test_an_invalid_row_beyond_the_limit_is_found(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [*ROWS, {"instruction": 7}])
    with pytest.raises(UserError, match=r"rows\.jsonl, line 6: 'instruction' must be text"):
        read_rows(str(path), limit=2)


def test_a_row_without_an_answer_is_an_error_if_answers_are_needed(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [*ROWS, {"instruction": "x", "output": "y"}])
    assert read_rows(str(path)).rows[5].answer == ""
    with pytest.raises(UserError, match=r"rows\.jsonl, line 6: no 'answer' to score against"):
        read_rows(str(path), needs_answer=True)


def test_a_duplicate_id_is_an_error_that_names_both_rows(tmp_path):
    rows = [{"id": "q1", **ROWS[0]}, {"id": "q2", **ROWS[1]}, {"id": "q1", **ROWS[2]}]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=r"line 3: duplicate id 'q1', also used by .*, line 1"):
        read_rows(str(path))


def test_a_union_of_one_source_is_that_source(tmp_path):
    path = str(write_lines(tmp_path / "rows.jsonl"))
    assert read_union([(path, 1)]) == read_rows(path)


def test_a_union_keeps_the_order_and_makes_ids_unique(tmp_path):
    first = str(write_lines(tmp_path / "a" / "rows.jsonl", ROWS[:2]))
    second = str(write_lines(tmp_path / "b" / "rows.jsonl", ROWS[2:]))
    union = read_union([(first, 1), (second, 1)])
    assert [row.output for row in union.rows] == ["0", "1", "2", "3", "4"]
    ids = ["1/rows-1", "1/rows-2", "2/rows-1", "2/rows-2", "2/rows-3"]
    assert [row.id for row in union.rows] == ids
    assert union.source == f"{first}, {second}"
    assert union.sha256 == content_hash(union.rows)


def test_the_limit_applies_to_each_source_of_a_union(tmp_path):
    sources = [str(write_lines(tmp_path / name / "rows.jsonl")) for name in "ab"]
    assert [row.output for row in read_union([(one, 1) for one in sources], limit=2).rows] == [
        "0",
        "1",
        "0",
        "1",
    ]


def test_a_duplicate_source_is_an_error(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"rows\.jsonl is given twice"):
        read_union([(str(path), 1), ("rows.jsonl", 1)])


def test_an_empty_list_of_sources_is_an_error():
    with pytest.raises(UserError, match="no data source was given"):
        read_union([])


@pytest.mark.parametrize("name", TEST_FILES)
def test_real_test_files_are_complete_and_have_answers(shared_dir, name):
    source = f"llm-adapters:dataset/{name}/test.json"
    found = read_rows(source, data_root=shared_dir / "data", needs_answer=True)
    assert len(found.rows) == TEST_FILES[name]


@pytest.mark.parametrize("name", TRAIN_FILES)
def test_real_training_files_are_complete_and_have_outputs(shared_dir, name):
    source = f"llm-adapters:ft-training_set/{name}.json"
    found = read_rows(source, data_root=shared_dir / "data")
    assert len(found.rows) == TRAIN_FILES[name]
    assert all(row.output.strip() for row in found.rows)


@pytest.mark.parametrize(
    ("source", "subset", "keys"),
    [
        ("nyu-mll/glue", "cola", "sentence, label, idx"),
        ("nyu-mll/glue", "mrpc", "sentence1, sentence2, label, idx"),
        ("openai/gsm8k", "main", "question, answer"),
    ],
)
def test_a_real_dataset_with_another_schema_names_its_keys(shared_dir, source, subset, keys):
    with pytest.raises(UserError, match=rf"row 1: no 'instruction' \(found: {keys}\)"):
        read_rows(source, data_root=shared_dir / "data", subset=subset)
