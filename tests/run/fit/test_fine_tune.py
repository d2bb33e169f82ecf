"""Training with selection, stopped early."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from tests.run.conftest import tiny_run
from toplora_train.run import finetune


def early_stopping_run(folder: Path, **changes):
    """The learning rate is far too high, so improvement soon stops."""
    config = tiny_run(folder, adapter="lora")
    trainer = replace(
        config.trainer, max_steps=20, eval_every=2, save_every=3, select="best", patience=2
    )
    return replace(
        config,
        trainer=trainer,
        dataset=replace(config.dataset, validation_rows=4),
        optimizer=replace(config.optimizer, lr=10.0, schedule="constant"),
        evaluation=replace(config.evaluation, base=False),
        **changes,
    )


def test_a_language_model_keeps_the_best_and_stops_when_patience_runs_out(tmp_path: Path):
    finetune.run(early_stopping_run(tmp_path), tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    chosen = report["train"]["selection"]
    values = [one["value"] for one in chosen["epochs"]]
    assert chosen["stopped_early"] and report["train"]["steps"] < 20
    assert values.index(min(values)) == len(values) - 3
    assert chosen["step"] == report["train"]["steps"] - 4
    assert report["train"]["validation_loss"] == values[-1]
    kept = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    best = load_file(
        tmp_path / "checkpoints" / "selected" / f"adapter-{chosen['step']:08d}.safetensors"
    )
    assert all(kept[name].equal(tensor) for name, tensor in best.items())
    task = report["tasks"]["arithmetic"]
    assert task["last_value"] is not None
    assert "Training stopped early" in (tmp_path / "report.md").read_text()

    # Interrupted and resumed it ends alike, and does not train past its end.
    cut = tmp_path / "cut"
    newest = tmp_path / "checkpoints" / f"step-{report['train']['steps']:08d}"
    for remove in (True, False):
        shutil.rmtree(cut, ignore_errors=True)
        shutil.copytree(tmp_path / "checkpoints", cut / "checkpoints")
        if remove:
            shutil.rmtree(cut / "checkpoints" / newest.name)
        shutil.copy(tmp_path / "metrics.jsonl", cut)
        finetune.run(early_stopping_run(cut, resume="auto"), cut)
        again = json.loads((cut / "report.json").read_text())["train"]["selection"]
        assert again == chosen
        adapter = cut / "adapter" / "adapter_model.safetensors"
        assert adapter.read_bytes() == (tmp_path / "adapter" / adapter.name).read_bytes()
