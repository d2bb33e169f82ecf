"""The kernels are offered where they can run, and Triton is loaded nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from toplora_train.adapters import kernels

FOLDER = Path(kernels.__file__).parent.parent

DISPATCHER_ALONE = f"""
import sys, types, torch
package = types.ModuleType("toplora_train.adapters")  # without its imports: PEFT loads Triton
package.__path__ = [{str(FOLDER)!r}]
sys.modules["toplora_train.adapters"] = package
from toplora_train.adapters.kernels import available
assert not available(torch.randn(4, 8))
assert "triton" not in sys.modules
"""

A_LAYER_WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # its import is an ImportError
import torch
from peft import get_peft_model
from toplora_train.adapters.toplora import peft_config
settings = {"r": 4, "dropout": 0.1, "target_modules": ["0"]}
model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 8)), peft_config(settings))
model(torch.randn(3, 8)).square().sum().backward()
assert any(p.grad is not None and p.grad.any() for p in model.parameters())
"""


def run(code: str) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_tensor_on_a_cpu_does_not_load_triton():
    run(DISPATCHER_ALONE)


@pytest.mark.slow
def test_a_layer_trains_on_a_cpu_where_triton_cannot_be_imported():
    run(A_LAYER_WITHOUT_TRITON)


def test_a_cpu_has_the_kernels_in_the_interpreter_only(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not kernels.available(torch.zeros(1))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(kernels, "_installed", lambda: True)
    assert kernels.available(torch.zeros(1, dtype=torch.bfloat16))
    assert not kernels.available(torch.zeros(1, dtype=torch.float64))
    assert not kernels.available(torch.zeros(1, device="meta"))
    monkeypatch.setattr(kernels, "_installed", lambda: False)
    assert not kernels.available(torch.zeros(1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_tensor_has_the_kernels():
    assert kernels.available(torch.zeros(1, device="cuda", dtype=torch.bfloat16))
    assert not kernels.available(torch.zeros(1, device="cuda", dtype=torch.float64))
