"""Sources are located without network access, and errors have no traceback."""

import json
from pathlib import Path

import datasets
import pytest
from pyarrow.parquet import read_metadata

from toplora_train.config.compose import load_yaml
from toplora_train.config.errors import UserError
from toplora_train.config.locate import options
from toplora_train.data.availability import ROWS, fetch, source_state
from toplora_train.data.hub import Source
from toplora_train.data.llm_adapters import BASE_URL, known_files

BOOLQ = "llm-adapters:dataset/boolq/test.json"
COMMIT = "740312add88f781978c0658806c59bc2815b9866"


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def in_hub_cache(folder, *, subset="main", commit=COMMIT, rows=7473):
    """A dataset in the library's cache, as far as it is inspected."""
    place = folder / "datasets" / "openai___gsm8k" / subset / "0.0.0" / commit
    place.mkdir(parents=True)
    info = {"config_name": subset, "splits": {"train": {"num_examples": rows}}}
    (place / "dataset_info.json").write_text(json.dumps(info))
    return place


def test_a_bundled_file_is_local():
    state = source_state(Source("bundled:arithmetic/train.jsonl"))
    assert state.state == "local"
    assert state.place.is_file() and state.size == state.place.stat().st_size


def test_a_missing_known_file_is_to_fetch_with_its_metadata(tmp_path):
    state = source_state(Source(BOOLQ))
    assert state.state == "to_fetch"
    assert state.place == tmp_path / "cache" / "llm-adapters" / "dataset" / "boolq" / "test.json"
    assert state.url == f"{BASE_URL}/dataset/boolq/test.json"
    assert (state.size, state.rows, state.licence) == (899_151, 3270, "CC-BY-SA-3.0")


def test_missing_sources_are_unavailable_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert source_state(Source(BOOLQ)).state == "unavailable"
    assert source_state(Source("openai/gsm8k")).state == "unavailable"
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set; unset it, or put a copy in"):
        fetch(Source("openai/gsm8k"))


def test_data_root_takes_precedence_over_the_cache(tmp_path):
    for root in (tmp_path / "cache", tmp_path / "own"):
        path = root / "llm-adapters" / "dataset" / "boolq" / "test.json"
        path.parent.mkdir(parents=True)
        path.write_text("[]")
    assert source_state(Source(BOOLQ)).state == "cached"
    own = source_state(Source(BOOLQ, data_root=tmp_path / "own"))
    assert (own.state, own.place) == ("local", path)


def test_an_unknown_file_is_unavailable_unless_data_root_has_it(tmp_path):
    source = "llm-adapters:ft-training_set/my_own.json"
    assert source_state(Source(source, data_root=tmp_path)).state == "unavailable"
    with pytest.raises(UserError, match="not a known file of AGI-Edgerunners/LLM-Adapters"):
        fetch(Source(source, data_root=tmp_path))
    path = tmp_path / "llm-adapters" / "ft-training_set" / "my_own.json"
    path.parent.mkdir(parents=True)
    path.write_text("[]")
    assert fetch(Source(source, data_root=tmp_path)).place == path


def test_a_missing_local_file_is_unavailable(tmp_path):
    state = source_state(Source(str(tmp_path / "rows.jsonl")))
    assert (state.state, state.place) == ("unavailable", tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match=r"rows\.jsonl: no such file or folder"):
        fetch(Source(str(tmp_path / "rows.jsonl")))


@pytest.mark.parametrize("source", ["squad", "hf:squad", "a b/c"])
def test_an_invalid_source_is_an_error(source):
    with pytest.raises(UserError, match="a source is bundled:FILE, llm-adapters:FILE"):
        source_state(Source(source))


def test_a_hub_dataset_is_looked_up_in_data_root_then_in_the_cache(tmp_path):
    where = {"data_root": tmp_path, "subset": "main", "revision": COMMIT}
    nowhere = source_state(Source("openai/gsm8k", **where))
    assert (nowhere.state, nowhere.place) == ("to_fetch", None)
    assert nowhere.url == f"https://huggingface.co/datasets/openai/gsm8k/tree/{COMMIT}"
    place = in_hub_cache(tmp_path)
    cached = source_state(Source("openai/gsm8k", **where))
    assert (cached.state, cached.place, cached.rows) == ("cached", place, 7473)
    (tmp_path / "hub" / "openai" / "gsm8k").mkdir(parents=True)
    assert source_state(Source("openai/gsm8k", **where)).state == "local"


def test_a_cached_dataset_must_match_commit_subset_and_split(tmp_path):
    in_hub_cache(tmp_path)
    for other in ({"revision": "0" * 40}, {"subset": "socratic"}, {"split": "test"}):
        where = {"data_root": None, "subset": "main", "revision": COMMIT} | other
        assert source_state(Source("openai/gsm8k", **where)).state == "to_fetch"
    assert source_state(Source("openai/gsm8k", revision="main")).state == "cached"


def test_every_known_file_has_a_state():
    for path in known_files():
        assert source_state(Source(f"llm-adapters:{path}")).state == "to_fetch"


TASKS = {name: load_yaml(option.path) for name, option in options("task").items()}


@pytest.mark.parametrize(("source", "subset"), ROWS)
def test_the_published_number_of_rows_is_correct(shared_dir: Path, source: str, subset: str):
    folder = shared_dir / "data" / "hub" / source / subset
    if not folder.is_dir():
        pytest.skip(f"{source} {subset} is not in the mirror")
    for split, rows in ROWS[source, subset].items():
        parts = list(folder.glob(f"{split}*.parquet"))
        assert sum(read_metadata(part).num_rows for part in parts) == rows, split


def test_every_hub_task_has_a_known_size_that_matches_its_file():
    for name, task in TASKS.items():
        if ":" in task.source:
            continue
        rows = source_state(Source(task.source, task.get("subset"), task.split)).rows
        assert rows is not None, name
        assert f"{rows:,} rows" in options("task")[name].path.read_text(), name


def test_other_datasets_have_no_known_size():
    assert source_state(Source("nyu-mll/glue", "cola", "train[:10]")).rows is None
    assert source_state(Source("nobody/nothing")).rows is None
