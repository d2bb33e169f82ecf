"""A table of texts and labels becomes a task without a file that describes it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.run.conftest import tiny_run
from toplora_train.config.errors import UserError
from toplora_train.run.prepare.own_table import with_table


def table(folder: Path, labels, *, test=None, **settings):
    for name, values in (("a.jsonl", labels), ("b.jsonl", test or [])):
        lines = [json.dumps({"t": f"text {n}", "l": label}) for n, label in enumerate(values)]
        (folder / name).write_text("\n".join(lines))
    config = tiny_run(folder)
    dataset = replace(
        config.dataset,
        train=str(folder / "a.jsonl"),
        test=None if test is None else str(folder / "b.jsonl"),
        **({"text": "t", "label": "l"} | settings),
    )
    return replace(config, dataset=dataset, task={})


@pytest.mark.parametrize(
    ("labels", "kind", "choices"),
    [
        (["pos", "neg"], "classify", ["neg", "pos"]),
        ([3, 1, 2, 10], "classify", ["1", "2", "3", "10"]),
        (["1", "0"], "classify", ["0", "1"]),
        ([True, False], "classify", ["False", "True"]),
        ([1.0, 2.0], "classify", ["1", "2"]),
        ([0.5, 2.0], "regress", []),
        (["0.5", "2"], "regress", []),
        (list(range(21)), "regress", []),
        (["Nan", "Ann", "1"], "classify", ["1", "Ann", "Nan"]),
    ],
)
def test_the_labels_say_what_is_predicted(tmp_path, labels, kind, choices):
    config, said = with_table(table(tmp_path, labels * 5))
    task = config.task["test"]
    assert (task.kind, task.choices) == (kind, choices)
    assert "classification into" in said if choices else "regression" in said
    assert task.also == (["macro_f1"] if choices else ["spearman"])


def test_a_fifth_is_held_out_only_where_no_test_file_is_given(tmp_path):
    config, said = with_table(table(tmp_path, ["a", "b"] * 50))
    path = str(tmp_path / "a.jsonl")
    assert (config.dataset.train, config.task["test"].source) == (
        f"rest-of:{path}",
        f"held-out:{path}",
    )
    assert "20 of the 100 rows" in said
    config, said = with_table(table(tmp_path, ["a", "b"] * 50, test=["c"]))
    assert (config.dataset.train, config.dataset.test) == (path, None)
    assert config.task["test"].source == str(tmp_path / "b.jsonl")
    assert config.task["test"].choices == ["a", "b", "c"]
    assert "held out" not in said and "random" not in said


def test_declared_classes_have_their_names_and_order(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    datasets = pytest.importorskip("datasets")
    kinds = {"t": datasets.Value("string"), "l": datasets.ClassLabel(names=["no", "a bit", "yes"])}

    def read(labels, **settings):
        config = table(tmp_path, ["yes", "no"], **settings)
        table_of = {"t": [f"x{n}" for n in range(len(labels))], "l": labels}
        rows = datasets.Dataset.from_dict(table_of, features=datasets.Features(kinds))
        pq.write_table(rows.data.table.cast(rows.features.arrow_schema), tmp_path / "a.parquet")
        dataset = replace(config.dataset, train=str(tmp_path / "a.parquet"))
        return with_table(replace(config, dataset=dataset))[0].task["test"].choices

    assert read([2, 1, 0] * 5) == ["no", "a bit", "yes"]
    assert read([2, 0] * 5, test=["yes", "no"]) == ["no", "yes"]
    with pytest.raises(UserError, match=r"'0' is none of the classes .*\(yes, no\)"):
        read([2, 0] * 5, test=["1", "0"])
    with pytest.raises(UserError, match=r"row 2: 'l' is -1, a hidden label"):
        read([2, -1, 0])


def test_a_pair_has_two_texts(tmp_path):
    task = with_table(table(tmp_path, ["a", "b"] * 5, text=["t", "u"]))[0].task["test"]
    assert (task.text, task.text_pair, task.label, task.label_names) == ("t", "u", "l", True)


def test_a_table_without_text_and_label_is_refused_with_these_keys(tmp_path):
    config = table(tmp_path, ["a", "b"], text=None, label=None, name="table")
    with pytest.raises(UserError, match=r"dataset\.label"):
        with_table(config)


def test_other_runs_are_left_as_they_are(tmp_path):
    config = tiny_run(tmp_path)
    assert with_table(config) == (config, None)


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (["a"] * 5, {}, "all 5 rows have the label a"),
        ([1, 2, math.nan], {}, r"a\.jsonl, line 3: 'l' is NaN, neither a class nor a number"),
        (
            ["0.5", "nan", "2"],
            {},
            r"line 2: 'l' is \"nan\", but the labels of all other rows are nu",
        ),
        (
            [0.5, "-inf", "NaN", 2.5],
            {},
            r"line 2: 'l' is \"-inf\", but the labels of all other rows",
        ),
        (["a", "b", None], {}, r"a\.jsonl, line 3: 'l' is null; dataset\.label=l needs it"),
        (["a", ["b"]], {}, r"line 2: 'l' is \[\"b\"\], neither a class nor a number"),
        ([f"x{n}" for n in range(30)], {}, "30 different labels in 30 rows are not classes"),
        (["a", "b"], {"label": None}, "a table needs the column of its text"),
        (["a", "b"], {"text": ["a", "b", "c"]}, "or two of a pair"),
        (["a", "b"], {"label": "m"}, r"line 1: no 'm' \(found: t, l\)"),
        (["a", "b"], {"prompt": "{t}"}, r"dataset\.prompt has no effect on a table"),
    ],
)
def test_what_makes_no_task_is_refused(tmp_path, labels, settings, message):
    with pytest.raises(UserError, match=message):
        with_table(table(tmp_path, labels, **settings))
