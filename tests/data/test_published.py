from pathlib import Path

import pytest
from pyarrow.parquet import read_metadata

from toplora_train.config.compose import load_yaml
from toplora_train.config.locate import options
from toplora_train.data.published import ROWS, published_rows

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
        rows = published_rows(task.source, subset=task.get("subset"), split=task.split)
        assert rows is not None, name
        assert f"{rows:,} rows" in options("task")[name].path.read_text(), name


def test_other_datasets_have_no_known_size():
    assert published_rows("nyu-mll/glue", subset="cola", split="train[:10]") is None
    assert published_rows("nobody/nothing", subset=None, split="train") is None
