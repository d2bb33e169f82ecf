import hashlib
import json
import re
import resource
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model

from toplora_train.config.errors import RunFailure, UserError
from toplora_train.models.tiny import tiny_model
from toplora_train.train.checkpoint import (
    TrainState,
    adapter_tensors,
    load_checkpoint,
    newest_checkpoint,
    read_state,
    save_checkpoint,
    validate_same_settings,
)
from toplora_train.train.optimizer import build_optimizer


def lora(r: int = 4) -> PeftModel:
    return get_peft_model(tiny_model(), LoraConfig(r=r, target_modules=["q_proj", "v_proj"]))


def adamw(model: PeftModel) -> torch.optim.AdamW:
    return build_optimizer(model, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)


def walk(model: PeftModel, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randint(2, 258, (2, 8))).logits.square().mean().backward()
        optimizer.step()


def save(folder: Path, model, optimizer, step: int, keep: int = 9, **state) -> Path:
    return save_checkpoint(
        folder,
        model=model,
        optimizer=optimizer,
        accelerator=Accelerator(cpu=True),
        state=TrainState(step=step, **state),
        keep=keep,
    )


def test_a_resumed_run_matches_bit_for_bit_including_rng_state(tmp_path: Path):
    torch.manual_seed(1)
    model = lora()
    optimizer = adamw(model)
    walk(model, optimizer, 3)
    checkpoint = save(tmp_path, model, optimizer, 3, seconds=1.25, window_loss=0.1)
    walk(model, optimizer, 3)

    torch.manual_seed(99)
    other = lora()
    other_optimizer = adamw(other)
    load_checkpoint(
        checkpoint, model=other, optimizer=other_optimizer, accelerator=Accelerator(cpu=True)
    )
    assert read_state(checkpoint) == TrainState(step=3, seconds=1.25, window_loss=0.1)
    walk(other, other_optimizer, 3)
    for name, tensor in adapter_tensors(model).items():
        assert torch.equal(tensor, adapter_tensors(other)[name]), name


def test_a_checkpoint_never_holds_the_base_model(tmp_path: Path):
    model = lora()
    optimizer = adamw(model)
    walk(model, optimizer, 1)
    checkpoint = save(tmp_path, model, optimizer, 1)
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    base = sum(p.numel() * 4 for p in model.get_base_model().parameters())
    assert size < base / 2
    assert {path.suffix for path in checkpoint.iterdir()} == {".safetensors", ".json"}


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path):
    model = lora()
    optimizer = adamw(model)
    for step in range(1, 6):
        save(tmp_path, model, optimizer, step, keep=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000004", "step-00000005"]


def test_copies_that_a_user_keeps_beside_the_checkpoints_are_neither_deleted_nor_resumed_from(
    tmp_path: Path,
):
    model = lora()
    optimizer = adamw(model)
    first = save(tmp_path, model, optimizer, 1)
    shutil.copytree(first, tmp_path / "step-00000001.bak")
    (tmp_path / "step-00000001.tar.gz").touch()
    newest = save(tmp_path, model, optimizer, 2, keep=1)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"step-00000001.bak", "step-00000001.tar.gz", newest.name}
    assert newest_checkpoint(tmp_path) == newest


def test_a_new_checkpoint_is_kept_beside_a_damaged_later_one(tmp_path: Path):
    model = lora()
    optimizer = adamw(model)
    later = save(tmp_path, model, optimizer, 9)
    (later / "optimizer.safetensors").write_bytes(b"cut")
    kept = save(tmp_path, model, optimizer, 3, keep=1)
    assert newest_checkpoint(tmp_path) == kept


@pytest.mark.parametrize(
    "damage", ["flip a byte", "cut a file", "lose a file", "lose the manifest"]
)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before_it(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    model = lora()
    optimizer = adamw(model)
    walk(model, optimizer, 1)
    good = save(tmp_path, model, optimizer, 1)
    bad = save(tmp_path, model, optimizer, 2)
    target = bad / "optimizer.safetensors"
    content = bytearray(target.read_bytes())
    if damage == "flip a byte":
        content[len(content) // 2] ^= 1
        target.write_bytes(content)
    elif damage == "cut a file":
        target.write_bytes(content[:-5])
    elif damage == "lose a file":
        target.unlink()
    else:
        (bad / "manifest.json").unlink()
    assert newest_checkpoint(tmp_path) == good
    assert "step-00000002 is damaged" in caplog.text


def reseal(checkpoint: Path, **content: object) -> None:
    """Replace files (``state__json=...``) and give the manifest their checksums."""
    for name, value in content.items():
        file = checkpoint / name.replace("__", ".")
        file.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    files = [file for file in sorted(checkpoint.iterdir()) if file.name != "manifest.json"]
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (checkpoint / "manifest.json").write_text(json.dumps(digests))


def changed(checkpoint: Path, change: str) -> None:
    document = json.loads((checkpoint / "state.json").read_text())
    if change == "no train":
        del document["train"]
    elif change == "a field from elsewhere":
        document["train"]["sampler"] = 1
    elif change == "a text as step":
        document["train"]["step"] = "2"
    elif change == "no parameter groups":
        document["optimizer"] = {}
    elif change == "too deep":
        (checkpoint / "state.json").write_text("[" * 100_000)
        return reseal(checkpoint)
    return reseal(checkpoint, state__json=document)


@pytest.mark.parametrize(
    "change",
    ["no train", "a field from elsewhere", "a text as step", "no parameter groups", "too deep"],
)
def test_another_state_under_a_right_checksum_is_skipped_for_the_one_before_it(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
):
    model = lora()
    good, bad = (save(tmp_path, model, adamw(model), step) for step in (1, 2))
    changed(bad, change)
    assert newest_checkpoint(tmp_path) == good
    assert "step-00000002 is damaged" in caplog.text


@pytest.mark.parametrize("manifest", ["{}", "[]", '{"../../x": "0"}', "[" * 100_000])
def test_a_manifest_that_does_not_name_the_files_is_damage(tmp_path: Path, manifest: str):
    model = lora()
    good, bad = (save(tmp_path, model, adamw(model), step) for step in (1, 2))
    (bad / "manifest.json").write_text(manifest)
    assert newest_checkpoint(tmp_path) == good


def test_garbage_as_tensors_under_a_right_checksum_is_damage(tmp_path: Path):
    model = lora()
    good, bad = (save(tmp_path, model, adamw(model), step) for step in (1, 2))
    reseal(bad, optimizer__safetensors=b"garbage")
    assert newest_checkpoint(tmp_path) == good


def test_the_state_of_another_optimizer_is_one_line(tmp_path: Path):
    model = lora()
    optimizer = adamw(model)
    walk(model, optimizer, 1)
    checkpoint = save(tmp_path, model, optimizer, 1)
    document = json.loads((checkpoint / "state.json").read_text())
    document["optimizer"]["param_groups"] = []
    reseal(checkpoint, state__json=document)
    with pytest.raises(UserError, match="holds the state of another optimizer or device"):
        load_checkpoint(
            checkpoint, model=model, optimizer=optimizer, accelerator=Accelerator(cpu=True)
        )


def test_a_partial_checkpoint_of_a_killed_process_is_removed(tmp_path: Path):
    (tmp_path / ".writing-step-00000003").mkdir()
    (tmp_path / ".writing-step-00000003" / "adapter.safetensors").write_bytes(b"half")
    model = lora()
    save(tmp_path, model, adamw(model), 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path):
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / ".writing-step-00000001").mkdir()
    assert newest_checkpoint(tmp_path) is None


def test_a_checkpoint_of_another_adapter_is_refused_without_side_effects(tmp_path: Path):
    model = lora(r=4)
    optimizer = adamw(model)
    checkpoint = save(tmp_path, model, optimizer, 1)
    other = lora(r=8)
    with pytest.raises(UserError, match="a different adapter"):
        load_checkpoint(
            checkpoint, model=other, optimizer=adamw(other), accelerator=Accelerator(cpu=True)
        )


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path):
    model = lora()
    checkpoint = save(tmp_path, model, adamw(model), 1)
    document = json.loads((checkpoint / "state.json").read_text())
    document["schema_version"] += 1
    reseal(checkpoint, state__json=document)
    for read in (read_state, lambda path: newest_checkpoint(path.parent)):
        with pytest.raises(UserError, match="newer toplora-train"):
            read(checkpoint)


def test_changed_settings_are_refused_by_name():
    stored = {"adapter.r": 8, "optimizer.betas": [0.9, 0.999], "seed": 1}
    validate_same_settings(Path("c"), stored, {**stored, "optimizer.betas": (0.9, 0.999)})
    with pytest.raises(UserError, match=r"adapter\.r was 8, now 4"):
        validate_same_settings(Path("c"), stored, {**stored, "adapter.r": 4})


def test_a_full_disk_leaves_the_previous_checkpoint_intact(tmp_path: Path):
    """A file-size limit stands in for the full disk: the kernel fails the same write."""
    model = lora()
    optimizer = adamw(model)
    walk(model, optimizer, 1)
    save(tmp_path, model, optimizer, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(RunFailure) as failure:
            save(tmp_path, model, optimizer, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "step 2 could not be written" in str(failure.value)
    assert "step-00000001 is intact" in str(failure.value)
    assert "resume=auto" in str(failure.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.name == "step-00000001"


def test_a_checkpoint_whose_folder_is_lost_is_kept_in_the_temporary_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "checkpoints").write_text("a file in place of the folder")
    model = lora()
    optimizer = adamw(model)
    walk(model, optimizer, 1)
    with pytest.raises(RunFailure, match=r"step 1 could not be written .* it is kept in") as error:
        save(tmp_path / "checkpoints", model, optimizer, 1)
    kept = Path(re.search(r"it is kept in (\S+);", str(error.value))[1])
    assert kept.name == "step-00000001"
    assert newest_checkpoint(kept.parent) == kept
