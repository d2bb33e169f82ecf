import csv
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from tests.report.run_folders import published_run
from toplora_train.config.errors import UserError
from toplora_train.config.locate import conf_dir, options
from toplora_train.report.published import (
    compare_with_table,
    known_tables,
    published_table,
    read_table,
    show_published,
    write_published,
)
from toplora_train.report.runs import find_runs

GLUE = read_table("lora_glue").tasks
HALF = [True, False] * 10


def lines(table: str, folder: Path):
    document = compare_with_table(read_table(table), find_runs([folder]))
    return {(line["row"], line["task"]): line for line in document["lines"]}, document


def test_a_score_is_compared_with_the_published_one_and_the_others_stay_empty(tmp_path: Path):
    published_run(tmp_path / "a", "dora", 16, "llama3_8b", {"boolq": HALF})
    found, document = lines("dora_commonsense", tmp_path)
    boolq = found.pop(("Llama 3 8B, DoRA r 16", "boolq"))
    assert boolq["published"] == 0.745
    assert boolq["value"] == 0.5
    assert boolq["difference"] == pytest.approx(-0.245)
    low, high = boolq["ci95"]
    assert boolq["difference_ci95"] == [low - 0.745, high - 0.745]
    assert {line["value"] for line in found.values()} == {None}
    assert document["certainty"] == "certain"
    assert "Published with protocol legacy.llm_adapters, here clean" in document["warnings"][0]


def test_the_mean_is_over_runs_of_one_task_each_by_the_seeds_that_all_have(tmp_path: Path):
    gate = {"enabled": True, "activation": "exp", "norm": "none", "init": "kaiming"}
    for seed in (1, 2):
        for index, task in enumerate(GLUE):
            right = [row < 8 + index + seed for row in range(20)]
            folder = tmp_path / f"{task}{seed}"
            published_run(folder, "toplora", 8, "roberta_base", {task: right}, seed=seed, **gate)
    published_run(tmp_path / "x", "toplora", 8, "roberta_base", {"rte": HALF}, seed=3, **gate)
    found, document = lines("toplora_ablation", tmp_path)
    mean = found[("without RMSNorm", "average")]
    assert mean["value"] == pytest.approx((8 + 3.5 + 1.5) / 20)
    assert mean["seeds"] == [1, 2]
    assert len(mean["runs"]) == 16
    assert mean["difference"] == pytest.approx(mean["value"] - 0.8372)
    assert found[("full gate", "average")]["value"] is None
    assert document["certainty"] == "second-hand"


def test_runs_of_a_row_that_were_evaluated_in_different_ways_are_refused(tmp_path: Path):
    for seed in (1, 2):
        folder = published_run(
            tmp_path / f"{seed}", "lora", 8, "roberta_base", {"rte": HALF}, seed=seed
        )
    report = json.loads((folder / "report.json").read_text())
    report["protocol"] = "legacy.toplora"
    (folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(UserError, match=r"evaluated on rte in different ways: .*legacy\.toplora"):
        lines("lora_glue", tmp_path)


def test_archived_evaluations_of_one_name_are_all_compared(tmp_path: Path):
    for seed in (1, 2, 3):
        published_run(tmp_path / f"{seed}", "lora", 8, "roberta_base", {"cola": HALF}, seed=seed)
    runs = [
        replace(run, folder=Path("S.json/again"), archived=run.predictions)
        for run in find_runs([tmp_path])
    ]
    document = compare_with_table(read_table("lora_glue"), runs)
    (line,) = [one for one in document["lines"] if one["value"] is not None]
    assert line["seeds"] == [1, 2, 3]
    assert not [one for one in document["warnings"] if "match no row" in one or "seed" in one]


def test_no_mean_without_all_tasks(tmp_path: Path):
    published_run(tmp_path / "a", "lora", 8, "roberta_base", {"rte": HALF})
    found, _ = lines("toplora_ablation", tmp_path)
    assert found[("LoRA", "average")]["value"] is None


def test_a_run_is_compared_only_with_a_row_of_the_same_start(tmp_path: Path):
    published_run(tmp_path / "a", "lora", 8, "roberta_base", {"rte": HALF, "cola": HALF})
    found, _ = lines("lora_glue", tmp_path)
    assert found[("LoRA r 8", "cola")]["value"] == 0.5
    assert found[("LoRA r 8, started from MNLI's", "rte")]["value"] is None
    published_run(tmp_path / "b", "lora", 8, "roberta_base", {"rte": HALF}, start_from="mnli")
    found, document = lines("lora_glue", tmp_path)
    assert found[("LoRA r 8, started from MNLI's", "rte")]["value"] == 0.5
    assert any("One seed here" in warning for warning in document["warnings"])


def test_two_methods_for_one_row_and_none_for_any_are_refused(tmp_path: Path):
    for name, dropout in (("a", 0.0), ("b", 0.1)):
        folder = published_run(tmp_path / name, "lora", 8, "roberta_base", {"cola": HALF})
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["adapter"]["dropout"] = dropout
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="several methods match 'LoRA r 8' on cola: 'lora adapter"):
        lines("lora_glue", tmp_path)
    with pytest.raises(UserError, match="no run has the model, adapter, rank and settings"):
        lines("dora_commonsense", tmp_path)
    with pytest.raises(UserError, match="table=x is unknown; the tables are dora_commonsense, lo"):
        read_table("x")


@pytest.mark.parametrize("name", known_tables())
def test_a_tables_tasks_exist_and_its_names_are_unique(name):
    table = read_table(name)
    assert set(table.tasks) <= set(options("task"))
    assert all(set(row.scores) <= set(table.tasks) for row in table.rows)
    assert len({row.name for row in table.rows}) == len(table.rows)
    adapters = {row.adapter for row in table.rows}
    assert adapters <= {path.stem for path in (conf_dir() / "adapter").glob("*.yaml")}


@pytest.mark.parametrize(
    ("recipe", "model", "table"),
    [
        ("llama3_commonsense", "llama3_8b", "dora_commonsense"),
        ("llama2_commonsense", "llama2_7b", "dora_commonsense"),
        ("roberta_base_glue", "roberta_base", "lora_glue"),
    ],
)
def test_a_recipe_expects_what_the_table_has(recipe, model, table):
    expected = yaml.safe_load(options("recipe")[recipe].path.read_text())["expected"]
    rows = read_table(table).rows
    for one in expected:
        (row,) = (
            row
            for row in rows
            if (row.model, row.adapter, row.r, row.start)
            == (model, one["adapter"], one["r"], one.get("start"))
        )
        assert row.scores == one["scores"]
        assert row.average == one.get("average")


def test_the_mean_of_a_published_row_is_that_of_its_scores():
    for row in read_table("dora_commonsense").rows:
        assert sum(row.scores.values()) / 8 == pytest.approx(row.average, abs=0.06)


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
