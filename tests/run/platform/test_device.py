from types import SimpleNamespace

import pytest
import torch

from toplora_train.config.errors import UserError
from toplora_train.config.schema import LaunchSettings
from toplora_train.models.tiny import tiny_model
from toplora_train.run.platform import device
from toplora_train.run.platform.device import (
    AUTOCAST,
    device_name,
    open_accelerator,
    open_shards,
    slow_products,
)


def test_the_cpu_is_used_if_configured():
    accelerator = open_accelerator(device="cpu", mixed_precision="no")
    assert accelerator.device == torch.device("cpu")
    assert accelerator.num_processes == 1


def test_one_process_may_compute_in_one_precision_after_another():
    for precision in ("no", "bf16", "no"):
        assert open_accelerator("cpu", precision).mixed_precision == precision


def test_fp16_on_a_cpu_is_refused_with_the_remedy():
    with pytest.raises(UserError, match=r"fp16 needs a GPU.*bf16"):
        open_accelerator(device="cpu", mixed_precision="fp16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="no GPU"):
        open_accelerator(device="cuda", mixed_precision="no")


def test_every_precision_has_its_dtype():
    assert {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16} == AUTOCAST


def test_deterministic_algorithms_apply_to_one_run_only():
    open_accelerator(device="cpu", mixed_precision="no", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    open_accelerator(device="cpu", mixed_precision="no")
    assert not torch.are_deterministic_algorithms_enabled()


def test_attention_is_not_compiled_for_every_length():
    torch.backends.cuda.enable_cudnn_sdp(True)
    open_accelerator(device="cpu", mixed_precision="no")
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_grouped_keys_and_values_are_not_repeated_on_a_cpu_where_rows_are_padded(monkeypatch):
    monkeypatch.setattr(device, "CHOSEN_GROUPED", None)
    monkeypatch.setenv(device.GROUPED, "0")  # as after a run on a GPU
    open_accelerator("cpu", "no")
    model = tiny_model()
    heads = model.config.num_attention_heads, model.config.num_key_value_heads
    ids = torch.arange(10).reshape(2, 5)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    saved: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim == 4:
            saved.append(tensor.shape[1])
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, attention_mask=mask)
    layers = model.config.num_hidden_layers
    queries_and_outputs, keys_and_values = (saved.count(number) for number in heads)
    assert heads[0] > heads[1]
    assert queries_and_outputs == keys_and_values == 2 * layers


def test_a_gpu_is_named_with_its_model(monkeypatch: pytest.MonkeyPatch):
    assert device_name(torch.device("cpu")) == "cpu"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"model of {device.index}")
    assert device_name(torch.device("cuda:1")) == "cuda:1 (model of 1)"


@pytest.mark.parametrize("here", ["", "3"])
def test_sharding_over_nodes_needs_equally_many_processes_on_each(monkeypatch, here: str):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    four = SimpleNamespace(num_processes=4, device=torch.device("meta"))
    with pytest.raises(UserError, match="same number of processes on every node"):
        open_shards(LaunchSettings(engine="fsdp2", shard="node"), four)
    assert open_shards(LaunchSettings(engine="zero2"), four) is None


def test_a_processor_without_instructions_for_the_dtype_is_named_with_the_remedy(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(device, "has_products", lambda _: True)
    assert slow_products(cpu, "bfloat16") is None
    monkeypatch.setattr(device, "has_products", lambda _: False)
    assert slow_products(gpu, "bfloat16") is None
    assert "bfloat16" in slow_products(cpu, "bfloat16")
    assert "model.dtype=float32" in slow_products(cpu, "bfloat16")


def test_shards_that_would_wait_where_they_are_computed_are_refused():
    two = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    with pytest.raises(UserError, match="is for GPUs"):
        open_shards(LaunchSettings(engine="fsdp2", offload="cpu"), two)
