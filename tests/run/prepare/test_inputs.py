from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.schema import DatasetSettings, ModelSettings, TaskSettings
from toplora_train.data.hub import Source
from toplora_train.run.prepare.inputs import as_list, fetch_model, find_model, find_rows


def glue(split: str = "validation") -> TaskSettings:
    return TaskSettings(
        name="rte",
        source="nyu-mll/glue",
        subset="rte",
        split=split,
        kind="classify",
        choices=["yes", "no"],
        licence="unclear",
    )


def test_every_source_of_a_run_is_listed_with_its_use(make_run):
    rows = Path(__file__)
    dataset = DatasetSettings(name="own", train=["a.jsonl", "b.jsonl"], test=str(rows))
    found = find_rows(make_run(dataset=dataset))
    assert [one.use for one in found] == [
        "training rows",
        "training rows",
        "test rows of arithmetic",
        "test rows of test",
    ]
    assert [one.at_hand for one in found] == [False, False, True, True]


def test_a_tasks_own_train_split_is_a_source(make_run):
    config = make_run(task={"rte": glue()}, dataset=DatasetSettings(name="g", train="task:train"))
    training, test = find_rows(config)
    assert training.where == Source("nyu-mll/glue", "rte", "train")
    assert (training.published, training.licence) == (2_490, "unclear")
    assert (test.where.split, test.published) == ("validation", 3)  # evaluation.limit


def test_a_mirror_makes_them_local(make_run, shared_dir: Path):
    config = make_run(
        task={"rte": glue()},
        dataset=DatasetSettings(name="g", train="task:train"),
        data_root=str(shared_dir / "data"),
    )
    assert all(one.at_hand for one in find_rows(config))


def test_a_missing_data_root_is_refused(make_run):
    with pytest.raises(UserError, match="data_root=/nowhere is not a folder"):
        find_rows(make_run(data_root="/nowhere"))


def test_local_inputs_are_listed_with_their_place_and_others_with_what_is_known(make_run):
    config = make_run(
        model=ModelSettings(name="l", path="meta-llama/Meta-Llama-3-8B"),
        task={"rte": glue()},
    )
    model, training, test = as_list(find_model(config.model), find_rows(config))
    assert (model.use, model.gated, model.licence) == ("model", True, "llama3")
    assert training.at_hand
    assert training.place.endswith("train.jsonl")
    assert training.rows is None  # they can be counted
    assert test.name == "nyu-mll/glue (rte, validation)"
    assert test.licence == "unclear"


def test_a_model_made_in_code_needs_no_fetching():
    assert fetch_model(ModelSettings(name="t", builtin="tiny"), weights=True) == "made in code"
