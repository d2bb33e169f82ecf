"""Locating the adapter that a run starts from, and running from it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from tests.report.made_up import made_up_report
from tests.run.conftest import tiny_run
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.saving import save_adapter, sha256_of
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import write_config
from toplora_train.config.schema import TaskSettings
from toplora_train.models.tiny import tiny_model
from toplora_train.report.plan import show_plan
from toplora_train.report.record import write_report
from toplora_train.run import finetune
from toplora_train.run.plan import make_plan
from toplora_train.run.prepare.plan_target import find_target
from toplora_train.run.prepare.start_from import has_head_of_same_task, locate_adapter

WEIGHTS = "adapter_model.safetensors"
PAIR = TaskSettings(
    name="rte", source="x", kind="classify", choices=["entailment", "not_entailment"]
)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """What a run leaves: ``RUN/adapter``."""
    run = tmp_path / "first"
    save_adapter(attach_adapter(tiny_model(), {"name": "lora"}, seed=5), run / "adapter")
    write_config(tiny_run(run, adapter="lora"), run / "config.yaml")
    write_report(run / "report.json", made_up_report())
    return run


def started(folder: Path, start: Path, **changes):
    config = tiny_run(folder, adapter="lora", **changes)
    return replace(
        config,
        adapter=config.adapter | {"start_from": str(start)},
        trainer=replace(config.trainer, max_steps=3, save_every=1, keep=5),
        evaluation=replace(config.evaluation, base=False, limit=1),
    )


def test_a_run_starts_from_another_reports_it_and_resumes_to_the_same_bytes(
    tmp_path: Path, lora: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "second"
    finetune.run(started(run, lora), run)
    digest = sha256_of(lora / "adapter" / WEIGHTS)
    line = f"The adapter starts from {lora / 'adapter'} ({WEIGHTS}, SHA-256 {digest})."
    assert line in capsys.readouterr().out
    report = json.loads((run / "report.json").read_text())
    assert line in report["notes"]
    assert report["adapter"]["start"] == {
        "path": str(lora / "adapter"),
        "revision": None,
        "sha256": digest,
        "tensors": 12,
        "left_out": [],
        "new_head": [],
        "trained_on": "toplora-train/tiny",
    }
    assert digest in (run / "adapter" / "README.md").read_text()
    # The first step has a gradient for A, whose B is zero at a start of its own.
    first = load_file(run / "checkpoints" / "step-00000001" / "adapter.safetensors")
    given = load_file(lora / "adapter" / WEIGHTS)
    assert all((first[name] - given[name]).abs().max() < 0.01 for name in given)

    whole = (run / "adapter" / WEIGHTS).read_bytes()
    for step in (2, 3):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    (run / "report.json").unlink()
    finetune.run(started(run, lora, resume="auto"), run)
    assert (run / "adapter" / WEIGHTS).read_bytes() == whole

    moved = lora.rename(tmp_path / "moved")  # it is what it was, elsewhere
    finetune.run(started(run, moved, resume="auto"), run)
    save_file({name: 2 * tensor for name, tensor in given.items()}, moved / "adapter" / WEIGHTS)
    with pytest.raises(UserError, match=r"adapter\.start_from was '.*', now '"):
        finetune.run(started(run, moved, resume="auto"), run)


def test_a_toplora_does_not_start_from_a_lora_and_nothing_is_trained(tmp_path: Path, lora: Path):
    config = tiny_run(tmp_path / "second")
    config = replace(config, adapter=config.adapter | {"start_from": str(lora)})
    with pytest.raises(UserError, match="its method is LoRA, and this run trains TOPLORA"):
        finetune.run(config, tmp_path / "second")
    assert not (tmp_path / "second" / "checkpoints").exists()


def test_a_plan_shows_the_start(tmp_path: Path, lora: Path):
    config = started(tmp_path / "second", lora)
    console = Console(record=True, width=300, quiet=True)
    console.quiet = False
    with console.capture() as shown:
        show_plan(make_plan(config, find_target(config)), console)
    assert f"The adapter starts from {lora / 'adapter'}" in shown.get()


def test_a_missing_adapter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"has no adapter_config\.json; give a finished run"):
        locate_adapter(str(tmp_path))
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="this run is not finished"):
        locate_adapter(str(tmp_path))
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        locate_adapter("./nowhere")
    with pytest.raises(UserError, match=r"owner/lora: there is no such folder.*HF_HUB_OFFLINE is"):
        locate_adapter("owner/lora@v1")


def test_a_hub_id_may_include_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((name, revision, allow_patterns))
        return str(tmp_path / "0123abc")

    monkeypatch.setattr("toplora_train.run.prepare.start_from.snapshot_download", snapshot)
    found = locate_adapter("owner/lora@v1")
    assert found == (tmp_path / "0123abc", "owner/lora", "0123abc")
    assert calls == [("owner/lora", "v1", ["adapter_config.json", WEIGHTS])]


def test_a_head_is_of_the_same_task_only_if_its_run_records_it(tmp_path: Path, lora: Path):
    ours = tiny_run(tmp_path / "now", task={"rte": PAIR})
    assert not has_head_of_same_task(ours, lora / "adapter")  # it writes
    write_config(ours, lora / "config.yaml")
    assert has_head_of_same_task(ours, lora / "adapter")
    assert not has_head_of_same_task(tiny_run(tmp_path / "now"), lora / "adapter")
    other = replace(PAIR, choices=["not_entailment", "entailment"])  # the same words, otherwise
    write_config(replace(ours, task={"rte": other}), lora / "config.yaml")
    assert not has_head_of_same_task(ours, lora / "adapter")
    (lora / "config.yaml").unlink()
    assert not has_head_of_same_task(ours, lora / "adapter")
