"""Measure training steps of every method beside PEFT's and the frozen base model's.

    python benchmarks/adapter_step.py [--cases 135m:qkv:8:0.05:float32/float32 ...] [--out FILE]

A case is SHAPE:MODULES:RANK:DROPOUT:BASE/ADAPTER: the shape of SmolLM2 135M, Llama 3.2 1B or 3B or
Llama 3.1 8B with random weights; q, k and v (``qkv``) or ``all`` linear layers; the dtypes of base
and adapter. One base model is shared by all methods, whose B is not zero. Rows are right-padded,
their lengths real ones around the median (``--lengths``, a JSON list; else all 128 tokens); the
loss is that of 7 % of the tokens, with logits for those alone. A step is forward and backward.
Methods are interleaved; the statistic is the median of CUDA events, on a CPU the minimum of
processor times, which other programs on the machine disturb less than the clock. The base model is
measured twice for the A/A spread. FLOPs: 4 per weight and token (no weight gradients); the ceiling
is a large bf16 product of random matrices in the same run.
Memory: on a CUDA device the peak of a step; on a CPU what autograd saves for the backward pass,
without weights. ``--simulate`` prints what a plan expects of a GPU's memory instead, in GiB, for
``--size ROWS LENGTH``; it needs none. Parity: LoRA has the same loss by both kernels. Prints JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.train.simulate import simulated_step_bytes
from toplora_train.train.step import Batch

SHAPES = {  # vocabulary, hidden, intermediate, layers, heads, key-value heads
    "tiny": (512, 64, 128, 2, 4, 2),
    "135m": (49_152, 576, 1536, 30, 9, 3),
    "135m-part": (2_048, 576, 1536, 4, 9, 3),  # four of its layers, for many repeats on a CPU
    "1b": (128_256, 2048, 8192, 16, 32, 8),
    "3b": (128_256, 3072, 8192, 28, 24, 8),
    "8b": (128_256, 4096, 14336, 32, 32, 8),
}
CASES = ("135m:qkv:8:0:float32/float32", "135m:qkv:8:0.05:float32/float32")
SUPERVISED = 14  # every 14th token: 7.1 %


class Case:
    """A case of the command line."""

    def __init__(self, text: str) -> None:
        self.shape, self.modules, r, dropout, dtypes = text.split(":")
        self.base, self.dtype = dtypes.split("/")
        self.r, self.dropout = int(r), float(dropout)


def base_model(case: Case, device: str) -> LlamaForCausalLM:
    vocabulary, hidden, intermediate, layers, heads, key_value_heads = SHAPES[case.shape]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        tie_word_embeddings=True,
        use_cache=False,
        dtype=getattr(torch, case.base),
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(getattr(torch, case.base))
    return model.requires_grad_(False).train()


def shared_copy(model: nn.Module) -> nn.Module:
    """The same modules around the same tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def adapted(base: nn.Module, name: str, kernel: str, case: Case) -> nn.Module:
    """By PEFT alone (``kernel=peft`` and its own DoRA norm), or as this package trains it."""
    settings: dict[str, Any] = adapter_defaults(name)[0] | {
        "dropout": case.dropout,
        "dtype": case.dtype,
        "target_modules": "all-linear" if case.modules == "all" else None,
    }
    if name == "tenslora":
        settings["construction"] = "depth" if case.modules == "all" else "qkv_depth"
    else:
        settings |= {"r": case.r, "alpha": 2 * case.r}
    if "kernel" in settings:
        settings["kernel"] = kernel
    if name == "dora":
        settings["norm"] = "peft" if kernel == "peft" else "factored"
    model = attach_adapter(shared_copy(base), settings, seed=0)
    if next(base.parameters()).is_meta:
        return model
    generator = torch.Generator(next(base.parameters()).device).manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.abs().sum() == 0:
                parameter.normal_(0, 0.01, generator=generator)
    return model


def rows_of(lengths: list[int], tokens: int) -> tuple[int, int]:
    """Rows and padded length of a batch of about ``tokens`` tokens around the median length."""
    ordered = sorted(lengths)
    longest = ordered[min(len(ordered) - 1, len(ordered) // 2 + tokens // ordered[-1] // 2)]
    return max(1, tokens // longest), longest


def step(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    for parameter in model.parameters():
        parameter.grad = None
    inputs.grad = None
    loss = loss_of(model, inputs, labels)
    loss.backward()
    return loss.detach()


def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    whole: Any = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    hidden = whole.model(inputs_embeds=inputs).last_hidden_state
    logits = whole.lm_head(hidden.flatten(0, 1)[::SUPERVISED])
    return nn.functional.cross_entropy(logits.float(), labels)


def milliseconds(run: Callable[[], Any], device: str) -> float:
    if device == "cpu":
        began = time.process_time()
        run()
        return 1e3 * (time.process_time() - began)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def ceiling(device: str) -> float:
    """TFLOP/s of a large bf16 product."""
    size = 8192 if device == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = [milliseconds(lambda: left @ right, device) for _ in range(15)]
    return 2 * size**3 / statistics.median(times[5:]) / 1e9


def kept_mib(model: nn.Module, run: Callable[[], Any]) -> float:
    """The distinct storages that autograd saves in a step, without weights."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # so that no storage address is used twice

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values()) / 2**20


def measure(
    case: Case, base: nn.Module, methods: dict[str, tuple[str, str]], size: tuple[int, int],
    repeats: int, device: str,
) -> dict[str, Any]:  # fmt: skip
    rows, length = size
    torch.manual_seed(2)
    width, dtype = SHAPES[case.shape][1], getattr(torch, case.base)
    inputs = torch.randn(rows, length, width, device=device, dtype=dtype).requires_grad_()
    positions = len(range(0, rows * length, SUPERVISED))
    labels = torch.randint(0, 500, (positions,), device=device)
    models = {"base": base, "base again": base}
    models |= {label: adapted(base, *method, case=case) for label, method in methods.items()}
    times: dict[str, list[float]] = {label: [] for label in models}
    losses, memory = {}, {}
    for repeat in range(repeats + 1):
        for label, model in models.items():
            found: list[Tensor] = []

            def run(model: nn.Module = model, found: list[Tensor] = found) -> None:
                found.append(step(model, inputs, labels))

            if repeat:
                times[label].append(milliseconds(run, device))
            elif device == "cuda":  # the first one warms up
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                run()
                memory[label] = (torch.cuda.max_memory_allocated() - before) / 2**20
            else:
                memory[label] = kept_mib(model, run)
            losses[label] = float(found[0])
    statistic = statistics.median if device == "cuda" else min
    taken = {label: statistic(values) for label, values in times.items()}
    weights = sum(p.numel() for p in base.model.layers.parameters() if p.dim() == 2)
    head = base.lm_head.weight.numel() / SUPERVISED
    flops = 4 * (weights + head) * rows * length
    return {
        "rows": rows,
        "length": length,
        "ms": {label: round(value, 2) for label, value in taken.items()},
        "spread": {label: round(max(v) / min(v) - 1, 4) for label, v in times.items()},
        "over_base": {label: round(value / taken["base"], 4) for label, value in taken.items()},
        "tflops": {label: round(flops / value / 1e9, 3) for label, value in taken.items()},
        "memory_mib": {label: round(value, 2) for label, value in memory.items()},
        "losses": losses,
    }


def simulated(
    case: Case, methods: dict[str, tuple[str, str]], size: tuple[int, int]
) -> dict[str, float]:
    """GiB of a step on a GPU beyond the weights, simulated on the meta device."""
    dtype, width = getattr(torch, case.base), SHAPES[case.shape][1]

    def loss(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
        del batch
        inputs = torch.empty(*size, width, device=device, dtype=dtype).requires_grad_()
        positions = len(range(0, size[0] * size[1], SUPERVISED))
        return loss_of(model, inputs, torch.zeros(positions, device=device, dtype=torch.long))

    base = base_model(case, "meta")
    models = {"base": shared_copy(base)}
    models |= {label: adapted(base, *method, case=case) for label, method in methods.items()}
    return {
        label: round(simulated_step_bytes(model, {}, loss, dtype, on_gpu=True) / 2**30, 1)
        for label, model in models.items()
    }


METHODS = {
    "PEFT LoRA": ("lora", "peft"),
    "LoRA": ("lora", "fused"),
    "TopLoRA": ("toplora", "fused"),
    "TopLoRA composed": ("toplora", "peft"),
    "PEFT DoRA": ("dora", "peft"),
    "DoRA": ("dora", "fused"),
    "TensLoRA": ("tenslora", "fused"),
    "GenLoRA": ("genlora", "fused"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lengths", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--size", nargs=2, type=int, metavar=("ROWS", "LENGTH"))
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lengths = json.loads(arguments.lengths.read_text()) if arguments.lengths else [128]
    size = tuple(arguments.size) if arguments.size else rows_of(lengths, arguments.tokens)
    methods = {label: METHODS[label] for label in arguments.methods}
    if arguments.simulate:
        for text in arguments.cases:
            print(text, json.dumps(simulated(Case(text), methods, size)))
        return
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "versions": {"torch": torch.__version__, "peft": peft.__version__, "python": sys.version},
        "threads": torch.get_num_threads(),
        "ceiling_tflops": round(ceiling(device), 2),
        "cases": {},
    }
    base, shape = None, ("", "")
    for text in arguments.cases:
        case = Case(text)
        if (case.shape, case.base) != shape:
            base = None  # before the next one is built
            base, shape = base_model(case, device), (case.shape, case.base)
        found["cases"][text] = measure(case, base, methods, size, arguments.repeats, device)
        print(text, json.dumps(found["cases"][text]), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(found, indent=2))
    print("ceiling", found["ceiling_tflops"], "TFLOP/s on", found["device"])


if __name__ == "__main__":
    main()
