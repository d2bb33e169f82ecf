"""A random Llama of a 1B model's width in a folder, and runs of it through the real command."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from toplora_train.models.tiny import tiny_tokenizer

WIDE = {  # a quarter of Llama 3.2 1B's layers, and a smaller vocabulary
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 16_384,
}
RUN = [
    "recipe=smoke",
    "model.builtin=null",
    "adapter.dropout=0",
    "optimizer.lr=1e-4",
    "trainer.max_steps=8",
    "evaluation.base=false",
    "evaluation.limit=1",
]

Run = Callable[..., list[float]]


def make_model(folder: Path, shape: dict[str, int]) -> None:
    """Weights in bf16, so that every precision starts from the same numbers."""
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=True, eos_token_id=1))
    model.to(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def train(model: Path, run_dir: Path, *changes: str) -> list[float]:
    """The losses of a run's steps."""
    places = [f"model.path={model}", f"output_dir={run_dir}"]
    command = [sys.executable, "-m", "toplora_train.cli", *RUN, *places, *changes]
    environment = {"NVIDIA_TF32_OVERRIDE": "0"}  # fp32 is meant to be fp32
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="session")
def wide(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    make_model(folder, WIDE)
    return folder


@pytest.fixture
def run(wide: Path, tmp_path: Path) -> Run:
    """Train the model with these changes of the configuration; the losses of the steps."""
    numbers = count()
    return lambda *changes: train(wide, tmp_path / f"run{next(numbers)}", *changes)


@pytest.fixture(scope="session")
def in_fp32(wide: Path, tmp_path_factory) -> list[float]:
    return train(wide, tmp_path_factory.mktemp("fp32") / "run", "launch.device=cuda")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print a failure at once: what ends these long tests early takes the summary along."""
    if report.failed and report.nodeid.startswith("tests/gpu/"):
        print(f"\n{report.longreprtext}")
