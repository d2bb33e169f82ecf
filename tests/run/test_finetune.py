import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.run.conftest import tiny_run
from toplora_train.config.errors import UserError
from toplora_train.report.metrics_file import KEYS
from toplora_train.run import finetune
from toplora_train.run.prepare import objective


def test_a_run_writes_the_documented_files(trained):
    _, folder = trained
    for name in [
        "metrics.jsonl",
        "report.json",
        "report.md",
        "report.html",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/README.md",
        "adapter/tokenizer.json",
        "checkpoints/step-00000004/manifest.json",
        "predictions/arithmetic.jsonl",
        "predictions/arithmetic.base.jsonl",
    ]:
        assert (folder / name).is_file(), name
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert metrics[0].keys() >= set(KEYS)
    report = json.loads((folder / "report.json").read_text())
    assert report["status"] == "completed"
    assert report["reload"] == {"max_abs_logit_difference": 0.0, "missing": [], "unexpected": []}
    assert report["train"]["loss_last"] < report["train"]["loss_first"]
    assert report["adapter"]["trainable_parameters"] == sum(
        tensor.numel()
        for tensor in load_file(folder / "adapter" / "adapter_model.safetensors").values()
    )


def test_an_unusable_adapter_is_refused_before_a_weight_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded = []
    real = objective.load_model
    monkeypatch.setattr(
        objective,
        "load_model",
        lambda *args, **kwargs: (loaded.append(kwargs.get("meta", False)), real(*args, **kwargs))[
            1
        ],
    )
    config = tiny_run(tmp_path)
    with pytest.raises(UserError, match="r must be"):
        finetune.run(replace(config, adapter=config.adapter | {"r": 0}), tmp_path)
    assert loaded == [True]


def test_a_target_that_matches_nothing_lists_the_linear_modules(tmp_path: Path):
    config = tiny_run(tmp_path)
    config = replace(config, adapter=config.adapter | {"target_modules": ["quary"]})
    with pytest.raises(UserError, match=r"quary.*q_proj"):
        finetune.run(config, tmp_path)


def test_a_run_cannot_resume_with_other_settings(trained):
    config, folder = trained
    other = replace(config, resume="auto", adapter=config.adapter | {"r": 4})
    with pytest.raises(UserError, match=r"adapter\.r was 8, now 4"):
        finetune.run(other, folder)
    other = replace(config, resume="auto", dataset=replace(config.dataset, limit=19))
    with pytest.raises(UserError, match=r"dataset\.rows"):
        finetune.run(other, folder)


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
    best = load_file(tmp_path / "checkpoints" / "selected" / "adapter.safetensors")
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
