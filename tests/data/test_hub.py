"""Local mirrors of Hub datasets, and errors when the Hub is unreachable."""

import io
import json
import logging
import os
import shutil

import datasets
import PIL.Image
import pytest
from datasets.arrow_writer import ArrowWriter

from toplora_train.config.errors import UserError
from toplora_train.data.files import read_file
from toplora_train.data.hub import Source, cached_set, hub_address, read_hub, read_mirror
from toplora_train.data.images import find_image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def mirror(tmp_path):
    """A dataset with two subsets, one of which has two splits."""
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    card = """\
---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train.jsonl}
  - {split: test, path: main/test.jsonl}
- config_name: other
  data_files:
  - {split: train, path: other/train.jsonl}
---
"""
    (folder / "README.md").write_text(card)
    for name in ("main/train", "main/test", "other/train"):
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [{"instruction": f"{name} {number}", "output": "x"} for number in range(3)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def read(folder, subset="main", split="train", revision=None):
    return list(read_mirror(folder, Source("owner/name", subset, split, revision)))


def test_a_class_keeps_its_number_and_has_its_name(tmp_path, capsys):
    kinds = datasets.Features(l=datasets.ClassLabel(names=["no", "yes"]))
    table = datasets.Dataset.from_dict({"l": [1, 0]}, features=kinds)
    table.to_parquet(tmp_path / "set" / "train.parquet")
    capsys.readouterr()  # its progress bar
    records = read(tmp_path / "set", subset=None, split="train[:1]")
    assert [(one.fields["l"], one.fields["l"].name) for one in records] == [(1, "yes")]


def test_an_image_is_its_content_not_decoded(tmp_path, capsys):
    image = PIL.Image.new("L", (3, 2), 7)
    kinds = datasets.Features(x=datasets.Image())
    datasets.Dataset.from_dict({"x": [image]}, features=kinds).to_parquet(
        tmp_path / "set" / "train.parquet"
    )
    capsys.readouterr()  # its progress bar
    [record] = read(tmp_path / "set", subset=None)
    content, _ = find_image(record.fields, "x", record.place)
    assert PIL.Image.open(io.BytesIO(content)).tobytes() == image.tobytes()
    [of_file] = read_file(tmp_path / "set" / "train.parquet")
    assert find_image(of_file.fields, "x", of_file.place)[0] == content


def test_the_given_split_and_subset_are_read(mirror):
    for subset, split in (("main", "train"), ("main", "test"), ("other", "train")):
        records = read(mirror, subset=subset, split=split)
        assert [record.fields["instruction"] for record in records] == [
            f"{subset}/{split} {number}" for number in range(3)
        ]
        assert records[1].place == f"{mirror} ({subset}, {split}), row 2"
        assert records[1].default_id == f"{split}-2"


def test_a_slice_of_a_split_can_be_read(mirror):
    assert len(read(mirror, split="train[:2]")) == 2


def test_a_missing_subset_or_split_is_an_error_that_lists_the_others(mirror):
    with pytest.raises(UserError, match=r"Unknown split .*'train', 'test'.*; set subset and split"):
        read(mirror, split="validation")
    with pytest.raises(UserError, match=r"'fine' not found.*'main', 'other'"):
        read(mirror, subset="fine")
    with pytest.raises(UserError, match=r"'main', 'other'") as caught:
        read(mirror, subset=None)
    assert "\n" not in str(caught.value)


def test_a_mirror_without_data_is_an_error_that_names_it(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: cannot be read as a dataset \("):
        read(tmp_path / "empty", subset=None)


def test_an_invalid_file_in_a_mirror_is_an_error_with_the_cause(mirror):
    (mirror / "main" / "test.jsonl").write_text('{"instruction": "one"}\n{"instruction" "two"}\n')
    with pytest.raises(UserError, match=r"name: a file cannot be read \(.*JSON.*\)"):
        read(mirror, split="test")


def test_a_revision_of_a_mirror_gives_a_warning(mirror, caplog):
    with caplog.at_level(logging.WARNING):
        read(mirror, revision="abc123")
    assert "cannot verify that it is revision abc123" in caplog.text


def test_progress_bars_are_left_as_they_were(mirror, capsys):
    before = datasets.utils.are_progress_bars_disabled()
    read(mirror)
    assert datasets.utils.are_progress_bars_disabled() == before
    assert capsys.readouterr() == ("", "")


def test_an_unavailable_hub_dataset_is_an_error_with_a_remedy(tmp_path):
    source = Source("nobody/nothing", data_root=tmp_path)
    with pytest.raises(UserError, match="DATA_ROOT/hub/nobody/nothing") as caught:
        read_hub(source)
    assert f"no mirror at {tmp_path / 'hub' / 'nobody' / 'nothing'}" in str(caught.value)
    with pytest.raises(UserError, match="no data_root was given"):
        read_hub(Source("nobody/nothing"))


def test_the_address_of_a_dataset_respects_the_hubs_endpoint(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert hub_address("o/n", None) == "https://huggingface.co/datasets/o/n/tree/main"
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example/")
    assert hub_address("o/n", "v1") == "http://hub.example/datasets/o/n/tree/v1"


COMMITS = ["a" * 40, "b" * 40]


@pytest.fixture
def _cached(tmp_path):
    """The library's cache after reading ``openai/gsm8k`` at two commits."""
    for number, commit in enumerate(COMMITS):
        folder = tmp_path / "cache" / "openai___gsm8k" / "main" / "0.0.0" / commit
        folder.mkdir(parents=True)
        rows = [{"question": f"{commit[0]} {index}"} for index in range(3)]
        with ArrowWriter(path=str(folder / "gsm8k-train.arrow")) as writer:
            for row in rows:
                writer.write(row)
            writer.finalize()
        datasets.DatasetInfo(
            features=datasets.Features({"question": datasets.Value("string")}),
            dataset_name="gsm8k",
            config_name="main",
            splits={"train": {"name": "train", "num_examples": 3, "dataset_name": "gsm8k"}},
        ).write_to_directory(str(folder))
        os.utime(folder / "dataset_info.json", (number, number))
        os.utime(folder, (number, number))


def read_cached(revision):
    records, commit = read_hub(Source("openai/gsm8k", "main", revision=revision))
    return list(records), commit


@pytest.mark.usefixtures("_cached")
@pytest.mark.parametrize("revision", [None, "main"])
def test_offline_the_newest_copy_is_read_and_its_commit_returned(revision):
    records, commit = read_cached(revision)
    assert [record.fields["question"] for record in records] == ["b 0", "b 1", "b 2"]
    assert commit == COMMITS[1]


@pytest.mark.usefixtures("_cached")
def test_offline_the_pinned_commit_is_read_even_if_not_the_newest():
    records, commit = read_cached(COMMITS[0])
    assert records[0].fields["question"] == "a 0"
    assert commit == COMMITS[0]


@pytest.mark.usefixtures("_cached")
def test_offline_a_different_commit_than_the_pinned_one_is_an_error():
    with pytest.raises(UserError, match=rf"openai/gsm8k: revision {'c' * 40} .* {COMMITS[1]}"):
        read_cached("c" * 40)


@pytest.mark.usefixtures("_cached")
def test_cached_datasets_are_found_without_reading_them():
    found = cached_set(Source("openai/gsm8k", "main", revision=COMMITS[0]))
    assert (found.commit, found.rows) == (COMMITS[0], 3)
    part = cached_set(Source("openai/gsm8k", "main", "train[:2]"))
    assert (part.commit, part.rows) == (COMMITS[1], None)
    for content in ("[" * 10**5, "{", '{"splits": [1]}', '{"splits": {"train": 3}}'):
        for file in part.folder.glob("dataset_info.json"):
            file.write_text(content)
        with pytest.raises(UserError, match=r"dataset_info\.json"):
            cached_set(Source("openai/gsm8k", "main", revision=COMMITS[1]))
    shutil.rmtree(part.folder)
    for other in ({"subset": "socratic"}, {"split": "test"}, {"revision": "c" * 40}):
        assert cached_set(Source("openai/gsm8k", **{"subset": "main"} | other)) is None


@pytest.mark.parametrize(("task", "rows"), [("cola", 1043), ("mrpc", 408), ("rte", 277)])
def test_real_mirrors_load_by_subset(shared_dir, task, rows):
    folder = shared_dir / "data" / "hub" / "nyu-mll" / "glue"
    records = read(folder, subset=task, split="validation")
    assert len(records) == rows
