"""A flipped byte or a cut anywhere in a saved file is recognised, or changes nothing."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.fuzz.readers import write_checkpoint
from tests.fuzz.test_readers import check
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.models.tiny import tiny_model
from toplora_train.train.checkpoint import newest_checkpoint, read_state

PLACES = 200
CHECKPOINT = ("adapter.safetensors", "optimizer.safetensors", "random.safetensors", "state.json")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def damaged(content: bytes, number: int) -> bytes:
    """A flip of one bit, or a cut, at a random place."""
    chance = random.Random(number)
    place = chance.randrange(len(content))
    if number % 2:
        return content[:place]
    flipped = content[place] ^ 1 << chance.randrange(8)
    return content[:place] + bytes([flipped]) + content[place + 1 :]


@pytest.mark.parametrize("name", [*CHECKPOINT, "manifest.json"])
def test_a_damaged_checkpoint_is_never_resumed_from(tmp_path: Path, name: str):
    good, bad = (write_checkpoint(tmp_path, step) for step in (1, 2))
    content, state = (bad / name).read_bytes(), read_state(bad)
    harmless = 0
    for number in range(PLACES):
        (bad / name).write_bytes(damaged(content, number))
        found = newest_checkpoint(tmp_path)
        if found == bad:  # only where the manifest means the same, such as another space
            assert name == "manifest.json"
            assert read_state(bad) == state
            harmless += 1
        else:
            assert found == good
    assert harmless < PLACES / 10


@pytest.mark.parametrize("name", ADAPTER)
def test_a_damaged_adapter_is_one_line_or_has_every_tensor(tmp_path: Path, name: str):
    whole, folder = tmp_path / "whole", tmp_path / "damaged"
    save_adapter(attach_adapter(tiny_model(), {"name": "toplora", "r": 2}, seed=1), whole)
    names = load_file(whole / ADAPTER[1]).keys()
    content = (whole / name).read_bytes()
    for number in range(PLACES):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        (folder / name).write_bytes(damaged(content, number))
        accepted = check(lambda folder: load_adapter(tiny_model(), folder), folder)
        if number % 2:  # a cut
            assert not accepted
        elif accepted:  # other values, which a run's digest of its adapter recognises
            tensors = load_file(folder / ADAPTER[1])
            assert tensors.keys() == names
            assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
