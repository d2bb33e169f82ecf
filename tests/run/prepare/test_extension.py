"""An extended run equals the longer run, or its differences are reported."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.run.conftest import tiny_run
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import write_config
from toplora_train.report.earlier import EarlierEnd, keep_end
from toplora_train.run import finetune
from toplora_train.run.fit.optimization import learning_rate
from toplora_train.run.prepare.extension import find_extension

PRODUCTS = ("adapter/adapter_model.safetensors", "predictions/arithmetic.jsonl")
CHECKPOINT = ("adapter", "optimizer", "random")


def run_of(folder: Path, epochs: int, **changes):
    """Three steps an epoch, the last one short."""
    config = tiny_run(folder, adapter="lora", **changes)
    return replace(
        config,
        trainer=replace(
            config.trainer, max_steps=None, epochs=epochs, save_every=2, keep=9, log_every=2
        ),
        optimizer=replace(config.optimizer, schedule="constant", warmup_steps=1),
        evaluation=replace(config.evaluation, limit=2, base=False),
    )


def ends(folder: Path, *steps: int) -> list[EarlierEnd]:
    return [EarlierEnd(folder, step, f"toplora-train to {step}") for step in steps]


def test_one_epoch_extended_to_two_is_a_run_of_two_byte_for_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    whole, run = tmp_path / "whole", tmp_path / "run"
    finetune.run(run_of(whole, 2), whole)
    finetune.run(run_of(run, 1), run)
    write_config(run_of(run, 1), run / "config.yaml")
    shutil.copytree(run, tmp_path / "cut")
    capsys.readouterr()

    keep_end(run)
    finetune.run(run_of(run, 2, resume="extend"), run)
    line = "The run had ended after step 3 and is extended to 6, identical to a run of that length"
    assert line in capsys.readouterr().out
    last = "checkpoints/step-00000006"
    files = [*PRODUCTS, *(f"{last}/{name}.safetensors" for name in CHECKPOINT)]
    for name in files:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    states = [json.loads((one / last / "state.json").read_text())["train"] for one in (run, whole)]
    assert states[0]["settings"] == states[1]["settings"]
    rows = [
        [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
        for one in (run, whole)
    ]
    assert [(row["step"], row["loss"]) for row in rows[0]] == [
        (row["step"], row["loss"]) for row in rows[1]
    ]
    report = json.loads((run / "report.json").read_text())
    assert report["train"]["extension"] == {
        "ends": [{"step": 3, "command": "toplora-train in a test"}],
        "differences": [],
    }
    kept = json.loads((run / "earlier" / "step-00000003" / "report.json").read_text())
    assert kept["status"] == "completed" and kept["train"]["steps"] == 3

    # Interrupted, it resumes with either setting; and the finished run is still there.
    cut = tmp_path / "cut"
    keep_end(cut)
    (cut / "report.json").unlink()
    shutil.copytree(run / "checkpoints" / "step-00000004", cut / "checkpoints" / "step-00000004")
    shutil.copy(run / "metrics.jsonl", cut)
    with pytest.raises(UserError, match="beyond the 3 steps"):
        finetune.run(run_of(cut, 1, resume="auto"), cut)
    finetune.run(run_of(cut, 2, resume="auto"), cut)
    for name in files:
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    shutil.rmtree(cut / "checkpoints")
    with pytest.raises(UserError, match="no intact checkpoint to extend the run from"):
        finetune.run(run_of(cut, 3, resume="extend"), cut)


def test_a_constant_rate_makes_no_difference(tmp_path: Path):
    config = run_of(tmp_path, 2)
    extension = find_extension(config, ends(tmp_path, 3, 5), resumed_step=5, total=6, rows=20)
    assert extension is not None and extension.differences == []
    assert str(extension).startswith("The run had ended after step 3, then 5 and is extended to 6,")
    assert find_extension(config, [], resumed_step=0, total=6, rows=20) is None


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (
            {"schedule": "linear", "warmup_steps": 0},
            "Steps 1 to 10 used the learning rates of a run of 10 steps "
            "(optimizer.schedule=linear), for example 0.0001 at step 10 instead of 0.00055; from "
            "step 11 on they are those of 20 steps, starting at 0.0005.",
        ),
        ({"schedule": "cosine", "warmup_steps": 0}, "(optimizer.schedule=cosine)"),
        (
            {"schedule": "constant", "warmup_steps": None, "warmup_ratio": 0.5},
            "(optimizer.warmup_ratio=0.5)",
        ),
    ],
)
def test_a_learning_rate_that_depends_on_the_length_is_reported(
    tmp_path: Path, schedule: dict, words: str
):
    config = run_of(tmp_path, 2)
    config = replace(config, optimizer=replace(config.optimizer, **schedule))
    extension = find_extension(config, ends(tmp_path, 10), resumed_step=10, total=20, rows=80)
    assert extension is not None
    assert words in str(extension) and "\n" not in str(extension)
    assert "It differs from a run of that length" in str(extension)


def test_the_learning_rates_of_a_legacy_protocol_are_those_it_trained_with(tmp_path: Path):
    config = run_of(tmp_path, 2)
    schedule = {"schedule": "constant", "warmup_steps": None, "warmup_ratio": 0.5}
    config = replace(
        config,
        optimizer=replace(config.optimizer, **schedule),
        evaluation=replace(config.evaluation, protocol="legacy.toplora"),
    )
    extension = find_extension(config, ends(tmp_path, 8), resumed_step=8, total=16, rows=64)
    of_loop = learning_rate(config.optimizer, total_steps=16, protocol="legacy.toplora")
    assert f"at step 8 instead of {of_loop(8):.4g};" in str(extension)
    assert of_loop(8) != learning_rate(config.optimizer, total_steps=16)(8)


@pytest.mark.parametrize(("end", "extra"), [(4, False), (3, True)])
def test_an_evaluation_that_the_longer_run_would_not_have_made_is_reported(
    tmp_path: Path, end: int, extra: bool
):
    config = run_of(tmp_path, 2)
    config = replace(
        config,
        trainer=replace(config.trainer, select="best", eval_every=2),
        dataset=replace(config.dataset, validation_rows=4),
    )
    extension = find_extension(config, ends(tmp_path, end), resumed_step=end, total=8, rows=16)
    assert extension is not None
    assert ("held-out rows were also evaluated after step 3" in str(extension)) == extra
