"""Whole runs that train a head, on generated rows in the columns of GLUE's STS-B and QNLI."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn import metrics

from tests.run.conftest import tiny_run
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import write_config
from toplora_train.config.schema import DatasetSettings, RunConfig, TaskSettings
from toplora_train.run import finetune
from toplora_train.run.evaluate import evaluate

QNLI = TaskSettings(
    name="qnli",
    source="nyu-mll/glue",
    subset="qnli",
    split="validation",
    kind="classify",
    text="question",
    text_pair="sentence",
    choices=["entailment", "not_entailment"],
)
STSB = TaskSettings(
    name="stsb",
    source="nyu-mll/glue",
    subset="stsb",
    split="validation",
    kind="regress",
    text="sentence1",
    text_pair="sentence2",
    metric="pearson",
    also=["spearman"],
)


def mirror(root: Path, task: TaskSettings, first: str, second: str, label: Any) -> None:
    """A copy of the hub's layout: ``hub/nyu-mll/glue/SUBSET/SPLIT.parquet``."""
    folder = root / "hub" / "nyu-mll" / "glue" / str(task.subset)
    folder.mkdir(parents=True)
    for split, count in (("train", 40), ("validation", 12)):
        numbers = range(count)
        table = pa.table(
            {
                first: [f"{split} text {n} {'a' * (n % 5)}" for n in numbers],
                second: [f"another {n * 7 % 11}" for n in numbers],
                "label": label(numbers),
                "idx": list(numbers),
            }
        )
        pq.write_table(table, folder / f"{split}.parquet")
    (folder.parent / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {task.subset}\n  data_files:\n"
        f"  - split: train\n    path: {task.subset}/train.parquet\n"
        f"  - split: validation\n    path: {task.subset}/validation.parquet\n---\n"
    )


def run_of(folder: Path, task: TaskSettings) -> RunConfig:
    config = tiny_run(folder)
    return replace(
        config,
        task={task.name: task},
        dataset=DatasetSettings(
            name="glue", train="task:train", max_length=64, validation_share=0.1
        ),
        trainer=replace(config.trainer, max_steps=None, epochs=2, batch_size=12),
        evaluation=replace(config.evaluation, limit=None),
        data_root=str(folder / "data"),
    )


def read(run: Path, task: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    report = json.loads((run / "report.json").read_text())
    lines = (run / "predictions" / f"{task}.jsonl").read_text().splitlines()
    return report, [json.loads(line) for line in lines], report["tasks"][task]


def test_a_task_of_pairs_trains_on_its_own_train_split_and_keeps_the_best_epoch(tmp_path: Path):
    mirror(tmp_path / "data", QNLI, "question", "sentence", lambda ns: [n % 2 for n in ns])
    finetune.run(run_of(tmp_path, QNLI), tmp_path)
    report, predictions, score = read(tmp_path, "qnli")
    right = [line["label"] for line in predictions]
    assert score["metric"] == "accuracy" and score["n"] == 12 == len(predictions)
    oracle = metrics.accuracy_score(right, [line["prediction"] for line in predictions])
    assert score["value"] == pytest.approx(oracle, abs=1e-9)
    assert score["majority_value"] == 0.5
    assert score["base_value"] is None  # its head is untrained
    assert (report["data"]["rows"], report["data"]["validation_rows"]) == (36, 4)
    assert report["data"]["supervised_tokens"] == 36
    selection = report["train"]["selection"]
    assert [one["epoch"] for one in selection["epochs"]] == [1.0, 2.0]
    assert max(one["value"] for one in selection["epochs"]) == next(
        one["value"] for one in selection["epochs"] if one["step"] == selection["step"]
    )
    assert report["reload"]["max_abs_logit_difference"] == 0
    assert "AutoModelForSequenceClassification" in (tmp_path / "adapter" / "README.md").read_text()
    kept = selection["step"] != selection["epochs"][-1]["step"]
    assert (score["last_value"] is not None) == kept
    assert (tmp_path / "predictions" / "qnli.last.jsonl").is_file() == kept


def test_a_task_of_numbers_is_scored_by_both_correlations(tmp_path: Path):
    mirror(
        tmp_path / "data",
        STSB,
        "sentence1",
        "sentence2",
        lambda ns: pa.array([n * 7 % 11 / 2 for n in ns], pa.float32()),
    )
    finetune.run(run_of(tmp_path, STSB), tmp_path)
    report, predictions, score = read(tmp_path, "stsb")
    right = [float(line["label"]) for line in predictions]
    predicted = [float(line["prediction"]) for line in predictions]
    assert score["value"] == pytest.approx(stats.pearsonr(right, predicted).statistic, abs=1e-9)
    assert score["more"]["spearman"]["value"] == pytest.approx(
        stats.spearmanr(right, predicted).statistic, abs=1e-9
    )
    assert score["majority_value"] == 0
    assert report["reload"]["max_abs_logit_difference"] == 0
    page = (tmp_path / "report.md").read_text()
    assert "stsb (pearson)" in page and "stsb (spearman)" in page and "untrained head" in page


def test_a_saved_head_reproduces_its_predictions_and_refuses_other_tasks(tmp_path: Path):
    mirror(tmp_path / "data", QNLI, "question", "sentence", lambda ns: [n % 2 for n in ns])
    config = run_of(tmp_path, QNLI)
    write_config(config, tmp_path / "config.yaml")
    finetune.run(config, tmp_path)
    _, before, _ = read(tmp_path, "qnli")
    folder, _ = evaluate(config, tmp_path, name="again", command="c")
    again = (folder / "predictions" / "qnli.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in again] == before
    mirror(tmp_path / "other", STSB, "sentence1", "sentence2", lambda ns: [1.0 * n for n in ns])
    other = replace(config, task={"stsb": STSB}, data_root=str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"task\.stsb needs another model: .*qnli"):
        evaluate(other, tmp_path, name="other", command="c")
