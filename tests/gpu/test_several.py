"""Several GPUs against one: the same losses."""

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]


@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "zero2", "zero3"])
@pytest.mark.parametrize("adapter", ["lora", "toplora", "tenslora"])
def test_two_gpus_train_what_one_trains(run, engine, adapter):
    chosen = [f"adapter={adapter}", "trainer.mixed_precision=no"]
    alone = run("launch.device=cuda", *chosen)
    both = run(f"launch={engine}", "launch.processes=2", "launch.device=cuda", *chosen)
    assert both == pytest.approx(alone, rel=1e-5)


def test_fsdp2_trains_the_same_where_shards_wait_on_the_cpu(run):
    on_gpus = run("launch=fsdp2", "launch.processes=2")
    waiting = run("launch=fsdp2", "launch.processes=2", "launch.offload=cpu")
    assert waiting == pytest.approx(on_gpus, rel=1e-6)


def test_fsdp2_shards_a_base_in_bf16_under_adapters_in_fp32(run):
    alone = run("launch.device=cuda", "model.dtype=bfloat16")
    both = run("launch=fsdp2", "launch.processes=2", "model.dtype=bfloat16")
    assert both == pytest.approx(alone, rel=1e-2)
