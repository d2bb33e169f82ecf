"""Adapters on a base model that two processes of a node shard, beside the same on the whole model.

The mesh has two dimensions (``launch.shard=node``), which PEFT would take for tensor parallelism.
"""

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from peft.tuners import tuners_utils

from tests.processes import in_two_processes
from toplora_train.adapters._peft.sharded import attaching
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.schema import LaunchSettings
from toplora_train.models.load import load_model
from toplora_train.models.locate import ModelLocation
from toplora_train.models.tiny import tiny_model
from toplora_train.run.platform.device import open_shards
from toplora_train.train.checkpoint import adapter_tensors

IDS = torch.arange(2, 38).view(3, 12)
METHODS = (("toplora", {}), ("dora", {}), ("lora", {"init": "pissa"}))


def start_train_and_reload(folder: Path) -> None:
    """DoRA's magnitudes and PiSSA's factors are computed from the weights."""
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    shards = open_shards(LaunchSettings(engine="fsdp2", shard="node"), Accelerator(cpu=True))
    location = ModelLocation("tiny", folder / "model", "local folder")
    for name, changes in METHODS:
        settings = {**adapter_defaults(name)[0], "dropout": 0.0, **changes}
        models = [load_model(location, dtype="float32", shards=one) for one in (None, shards)]
        for model in models:
            with torch.inference_mode():
                model(IDS)  # the base model is evaluated before it is trained on
        whole, half = (attach_adapter(model, settings, seed=3) for model in models)
        starts = [adapter_tensors(model) for model in (whole, half)]
        assert starts[0].keys() == starts[1].keys()
        assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0])
        for model in (whole, half):
            model(IDS, labels=IDS).loss.backward()
        for one, other in zip(whole.parameters(), half.parameters(), strict=True):
            assert one.requires_grad == other.requires_grad
            if one.requires_grad:
                torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-7)
        saved = folder / f"{name}-{os.environ['RANK']}"
        save_adapter(half, saved)
        reloaded = load_adapter(load_model(location, dtype="float32", shards=shards), saved)
        with torch.no_grad():
            assert torch.equal(reloaded(IDS).logits, half(IDS).logits)


def test_adapters_start_train_and_reload_as_on_the_whole_model(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path / "model")
    assert in_two_processes(tmp_path, start_train_and_reload, tmp_path)


def test_a_whole_model_is_attached_to_as_ever():
    before = tuners_utils._torch_supports_distributed
    with attaching(tiny_model()):
        assert tuners_utils._torch_supports_distributed == before
