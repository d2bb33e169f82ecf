"""Count an adapter's memory traffic and operations in one layer, forward and backward.

    python benchmarks/memory_passes.py [--width 1024] [--tokens 2048] [--rank 8] [--out FILE]

A pass is the traffic of reading or writing one T x d tensor of 16-bit numbers. Every operation's
inputs and outputs are counted, less those of the frozen layer alone (its own two products); views
cost nothing, and storages of at most 512 KiB, which stay in a processor's cache, are not counted.
Operations are what PyTorch dispatches, which on a GPU are kernel launches; with dropout, the CPU's
are more, because it draws the mask for 512 KiB of rows at a time, where a GPU's kernels are one
launch each. Nothing is timed, square products are not computed, and the processor counts as one
with instructions for 16-bit numbers: the figures are the same on every machine. Prints a table and
writes JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toplora_train.adapters import fused
from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.adapter import adapter_defaults

CACHED = 2**19
NO_OPERATIONS = ("aten::detach", "aten::is_same_size", "aten::promote_types")
SETTINGS = (  # base, adapter, dropout
    ("bfloat16", "bfloat16", 0.0),
    ("bfloat16", "bfloat16", 0.05),
    ("bfloat16", "float32", 0.0),
    ("bfloat16", "float32", 0.05),
    ("float32", "float32", 0.0),
    ("float32", "float32", 0.05),
)
METHODS = {
    "PEFT LoRA": ("lora", {"kernel": "peft"}),
    "PEFT DoRA": ("dora", {"norm": "peft"}),
    "LoRA": ("lora", {}),
    "DoRA": ("dora", {"norm": "factored"}),
    "TopLoRA": ("toplora", {}),
    "TopLoRA composed": ("toplora", {"kernel": "peft"}),
    "GenLoRA": ("genlora", {}),
}


class Traffic(TorchDispatchMode):
    """Bytes read and written by every operation, and the number of operations."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.operations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        schema = function._schema
        if schema.name == "aten::mm" and min(*args[0].shape, *args[1].shape) > 256:
            out = args[0].new_empty(args[0].shape[0], args[1].shape[1])
        else:
            out = function(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        is_view = any(a.alias_info and not a.alias_info.is_write for a in schema.arguments)
        if is_view or "empty" in schema.name or schema.name in NO_OPERATIONS:
            return out
        self.operations += 1
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if schema.name in {"aten::bernoulli_", "aten::zero_", "aten::fill_"}:
            read = []  # written only
        for tensor in (*read, *made):
            if tensor.untyped_storage().nbytes() > CACHED:
                self.bytes += tensor.numel() * tensor.element_size()
        return out


class OneLayer(nn.Module):
    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.q_proj(x)


def traffic(model: nn.Module, x: Tensor, dy: Tensor) -> tuple[int, int]:
    for _ in range(2):  # the first time initialises
        model.zero_grad()
        x.grad = None
        with Traffic() as counted:
            model(x).backward(dy)
    return counted.bytes, counted.operations


@patch.object(fused, "has_products", lambda _: True)
def measure(width: int, tokens: int, rank: int) -> list[dict[str, Any]]:
    lines = []
    for base, adapter, dropout in SETTINGS:
        dtype = getattr(torch, base)
        x = torch.zeros(tokens, width, dtype=dtype).requires_grad_()
        dy = torch.zeros(tokens, width, dtype=dtype)
        frozen = OneLayer(width, dtype).requires_grad_(False)
        of_base = traffic(frozen, x, dy)
        line: dict[str, Any] = {"base": base, "adapter": adapter, "dropout": dropout}
        for label, (name, changes) in METHODS.items():
            settings = adapter_defaults(name)[0] | changes | {
                "r": rank, "dtype": adapter, "dropout": dropout, "target_modules": ["q_proj"],
            }  # fmt: skip
            model = attach_adapter(OneLayer(width, dtype), settings, seed=0).train()
            total = traffic(model, x, dy)
            line[label] = {
                "passes": round((total[0] - of_base[0]) / (tokens * width * 2), 1),
                "operations": total[1] - of_base[1],
            }
        lines.append(line)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lines = measure(arguments.width, arguments.tokens, arguments.rank)
    print("passes / operations per layer, beyond the frozen layer")
    print("| base, adapter, dropout | " + " | ".join(METHODS) + " |")
    print("| --- " * (len(METHODS) + 1) + "|")
    for line in lines:
        cells = [f"{line[label]['passes']} / {line[label]['operations']}" for label in METHODS]
        print(
            f"| {line['base']}, {line['adapter']}, {line['dropout']} | " + " | ".join(cells) + " |"
        )
    if arguments.out:
        arguments.out.write_text(
            json.dumps({"settings": vars(arguments) | {"out": None}, "lines": lines}, indent=2)
        )


if __name__ == "__main__":
    main()
