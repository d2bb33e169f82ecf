"""Every precision against fp32, on the same steps of the same model.

The bounds are what the formats promise, set before anything was measured: bf16 keeps 8 bits of a
number and fp16 11, and the losses are means over hundreds of tokens; NF4 changes the weights
themselves, of which only the losses' course is expected to stay.
"""

import importlib.util

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BOUNDS = {  # relative, of every step's loss
    "mixed bf16": (["trainer.mixed_precision=bf16"], 1e-2),
    "mixed fp16": (["trainer.mixed_precision=fp16"], 5e-3),
    "base in bf16": (["model.dtype=bfloat16"], 1e-2),
    "activations recomputed": (["trainer.activation_checkpointing=true"], 1e-5),
    "compiled layers": (["trainer.compile=inductor"], 1e-4),
    "another micro-batch": (["trainer.micro_batch_size=1"], 1e-4),
    "the micro-batch that fits": (["trainer.micro_batch_size=auto"], 1e-4),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_the_losses_are_those_of_fp32(run, in_fp32, name):
    changes, bound = BOUNDS[name]
    assert run("launch.device=cuda", *changes) == pytest.approx(in_fp32, rel=bound)


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra quant"
)
@pytest.mark.parametrize(("quantization", "bound"), [("4bit", 5e-2), ("8bit", 2e-2)])
def test_a_quantised_base_learns_as_the_whole_one(run, in_fp32, quantization, bound):
    losses = run("launch.device=cuda", "model.dtype=bfloat16", f"model.quantization={quantization}")
    assert losses == pytest.approx(in_fp32, rel=bound)


@pytest.mark.skipif(
    importlib.util.find_spec("liger_kernel") is None, reason="needs the extra liger"
)
def test_ligers_kernels_give_the_losses_of_pytorchs(run, in_fp32):
    assert run("launch.device=cuda", "trainer.liger=true") == pytest.approx(in_fp32, rel=1e-4)


def test_a_deterministic_run_is_the_same_twice(run):
    once, again = (run("launch.device=cuda", "trainer.deterministic=true") for _ in range(2))
    assert once == again
