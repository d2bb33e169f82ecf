"""Measure TensLoRA's update, contracted, beside the form that rebuilds the tensor of all updates.

    OMP_NUM_THREADS=1 python benchmarks/tenslora.py [--tokens 256 2048] [--out FILE]

Only the adapter is computed: forward and backward of the updates of q, k and v in every layer, with
gradients of the factors, the core and the inputs. "Contracted" is this package's: a module's slice
of the tensor as two thin matrices. "Materialised" restates the published form from its equation,
T = core x_0 U_0 x_1 ... x_N U_N, y = x T[:, :, projection, layer], once for every module, as the
authors' code does; each module's backward pass follows at once, so that it needs less memory than
that code. Repeats are interleaved; the statistic is the minimum of processor times on a CPU, the
median of CUDA events on a GPU. The contracted form is measured twice for the A/A spread. Parity:
the largest relative error, in norm, of a form's gradients against the contracted form in float64,
which a test compares with the materialised one in float64. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from toplora_train.adapters.tenslora_constructions import Features, Heads, Slot, slots
from toplora_train.adapters.tenslora_contraction import initial_factors, thin_factors

CONSTRUCTIONS = ("att", "qkv", "depth", "qkv_depth", "att_qkv_depth")


def contracted(core: Tensor, factors: Sequence[Tensor], slot: Slot, x: Tensor) -> Tensor:
    A, B = thin_factors(core, factors, slot.rows, head_layout="model")
    return (x @ A.T) @ B.T


def materialised(core: Tensor, factors: Sequence[Tensor], slot: Slot, x: Tensor) -> Tensor:
    tensor = core
    for mode, factor in enumerate(factors):
        tensor = torch.tensordot(tensor, factor, dims=([mode], [1])).movedim(-1, mode)
    for row in reversed(slot.rows):
        tensor = tensor[..., row]
    if tensor.dim() == 3:  # input x coordinate x head
        tensor = tensor.transpose(1, 2).flatten(1)
    return x @ tensor


class Updates:
    """The updates of all q, k and v, their inputs and the gradients of their outputs."""

    def __init__(
        self,
        construction: str,
        *,
        d: int,
        layers: int,
        heads: int,
        r: int,
        tokens: int,
        device: str,
    ) -> None:
        generator = torch.Generator().manual_seed(1)
        names = [f"layers.{i}.self_attn.{p}_proj" for i in range(layers) for p in "qkv"]
        targets = dict.fromkeys(names, Features(d, d))
        self.slots = list(slots(targets, construction, Heads(heads, d // heads)).values())
        self.tensors: dict[str, list[Tensor]] = {}
        torch.manual_seed(1)
        for slot in self.slots:
            if slot.tensor not in self.tensors:
                ranks = [r] * len(slot.sizes)
                core, factors = initial_factors(
                    slot.sizes, ranks, factorization="tucker", init="orthogonal"
                )
                assert core is not None
                made = [torch.randn(core.shape, generator=generator), *factors]
                self.tensors[slot.tensor] = [one.to(device).requires_grad_() for one in made]
        shape = (layers, tokens, d)
        self.inputs = [
            x.requires_grad_() for x in torch.randn(shape, generator=generator).to(device)
        ]
        self.gradient = torch.randn(shape[1:], generator=generator).to(device)
        self.parameters = sum(one.numel() for made in self.tensors.values() for one in made)

    def run(self, update: Callable[..., Tensor]) -> None:
        for leaf in self.leaves():
            leaf.grad = None
        for number, slot in enumerate(self.slots):
            core, *factors = self.tensors[slot.tensor]
            update(core, factors, slot, self.inputs[number // 3]).backward(self.gradient)

    def gradients(self) -> list[Tensor]:
        return [leaf.grad.clone() for leaf in self.leaves() if leaf.grad is not None]

    def to(self, dtype: torch.dtype) -> None:
        for leaf in self.leaves():
            leaf.grad = None
            leaf.data = leaf.data.to(dtype)
        self.gradient = self.gradient.to(dtype)

    def leaves(self) -> list[Tensor]:
        return [*self.inputs, *(one for made in self.tensors.values() for one in made)]


def milliseconds(run: Callable[[], None], device: str) -> float:
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


def measure(updates: Updates, repeats: int, device: str) -> dict[str, float]:
    forms = {
        "contracted": contracted,
        "materialised": materialised,
        "contracted again": contracted,
    }
    times: dict[str, list[float]] = {name: [] for name in forms}
    gradients: dict[str, list[Tensor]] = {}
    for repeat in range(repeats + 1):
        for name, form in forms.items():

            def run(form: Callable[..., Tensor] = form) -> None:
                updates.run(form)

            if repeat:
                times[name].append(milliseconds(run, device))
            else:  # the first one warms up
                run()
                gradients[name] = updates.gradients()
    statistic = statistics.median if device == "cuda" else min
    taken = {name: statistic(values) for name, values in times.items()}
    updates.to(torch.float64)
    updates.run(contracted)
    exact = updates.gradients()
    errors = {
        name: max(float((one - true).norm() / true.norm()) for one, true in pairs)
        for name, pairs in ((name, zip(gradients[name], exact, strict=True)) for name in forms)
    }
    return {
        **{f"{name} ms": value for name, value in taken.items()},
        "ratio": taken["materialised"] / max(taken["contracted"], taken["contracted again"]),
        "spread": abs(taken["contracted again"] / taken["contracted"] - 1),
        "contracted error": errors["contracted"],
        "materialised error": errors["materialised"],
        "parameters": updates.parameters,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--constructions", nargs="+", default=CONSTRUCTIONS)
    parser.add_argument("--tokens", nargs="+", type=int, default=[256, 2048])
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--r", type=int, default=8)
    parser.add_argument("--modules", type=int, help="compute only so many of the 3 L modules")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    shape = {name: getattr(given, name) for name in ("d", "layers", "heads", "r")}
    cases = {}
    print("| construction | tokens | contracted, ms | materialised, ms | ratio | A/A | errors |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for tokens in given.tokens:
        for construction in given.constructions:
            updates = Updates(construction, **shape, tokens=tokens, device=given.device)
            updates.slots = updates.slots[: given.modules]
            found = measure(updates, given.repeats, given.device)
            cases[f"{construction}:{tokens}"] = found
            print(
                f"| {construction} | {tokens:,} | {found['contracted ms']:,.1f} "
                f"| {found['materialised ms']:,.0f} | {found['ratio']:,.0f} "
                f"| {found['spread']:.0%} | {found['contracted error']:.0e}, "
                f"{found['materialised error']:.0e} |",
                flush=True,
            )
    if given.out is not None:
        on_gpu = given.device == "cuda"
        machine = {
            "torch": torch.__version__,
            "machine": torch.cuda.get_device_name() if on_gpu else platform.processor(),
            "threads": torch.get_num_threads(),
        }
        given.out.write_text(json.dumps({"machine": machine, "shape": shape, "cases": cases}))


if __name__ == "__main__":
    main()
