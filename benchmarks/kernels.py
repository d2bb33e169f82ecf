"""Bandwidth of the adapters' Triton kernels on a CUDA device, beside cuBLAS and a device copy.

    python benchmarks/kernels.py --out kernels.json
    python benchmarks/kernels.py --interpret      # tiny shapes on a CPU: only that it runs

Each launch's median time from `triton.testing.do_bench`, which empties the L2 cache between
repetitions. Bytes are those that must move: x once (dx twice), the narrow matrices, the result.
"copy" is a device copy of x, the ceiling, measured in the same run; "cuBLAS" the plain product of
the same shapes, without dropout; "eager" what PyTorch runs in the kernel's place, with a stored
mask where there is dropout. Errors are the largest ones against float32, relative to the largest
value. What --seconds leaves no time for is listed as not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

SEED = 2**40 + 11
EPS = torch.finfo(torch.float32).eps


@dataclass
class Launch:
    """One measured thing: a kernel at a shape, and what it is compared with."""

    name: str
    shape: dict[str, float]
    bytes: int
    kernel: Callable[[], object]
    cublas: Callable[[], object] | None
    eager: Callable[[], object]


def projections(T: int, n: int, k: int, p: float, data: dict[str, Tensor]) -> Iterator[Launch]:
    """The three products with x, ``k / 2`` rows of K under dropout."""
    from toplora_train.adapters.kernels import projection

    x, dx = data["x"], data["dx"]
    K, dhidden = torch.randn_like(x[:k]), torch.randn(T, k, device=x.device).to(x.dtype)
    size, dropped = x.element_size(), k // 2
    wide, narrow = x.numel() * size, K.numel() * size + dhidden.numel() * size
    shape = {"n": n, "k": k, "p": p}
    K_d, K_p = K.split(dropped)
    dh_d, dh_p = (part.contiguous() for part in dhidden.split(dropped, dim=1))

    def eager_forward() -> Tensor:
        if not p:
            return x @ K.T
        return torch.cat([F.dropout(x, p) @ K_d.T, x @ K_p.T], dim=1)

    def eager_input() -> None:
        if not p:
            dx.addmm_(dhidden, K)
            return
        dx.addmm_(dh_p, K_p)
        dx.add_((dh_d @ K_d).mul_(data["kept"]), alpha=1 / (1 - p))

    def eager_weight() -> Tensor:
        if not p:
            return dhidden.T @ x
        return torch.cat([dh_d.T @ (x * data["kept"]), dh_p.T @ x])

    yield Launch(
        "project", shape, wide + narrow,
        lambda: projection.project(x, K, p, SEED, dropped),
        lambda: x @ K.T, eager_forward,
    )  # fmt: skip
    yield Launch(
        "project_backward_input", shape, 2 * wide + narrow,
        lambda: projection.project_backward_input(dhidden, K, p, SEED, dropped, dx),
        lambda: dx.addmm_(dhidden, K), eager_input,
    )  # fmt: skip
    yield Launch(
        "project_backward_weight", shape, wide + dhidden.numel() * size + K.numel() * 4,
        lambda: projection.project_backward_weight(dhidden, x, p, SEED, dropped),
        lambda: dhidden.T @ x, eager_weight,
    )  # fmt: skip


def gates(T: int, r: int, like: Tensor) -> Iterator[Launch]:
    """The gate and its gradient against the eager operations."""
    from toplora_train.adapters.kernels.gate import gated, gated_backward

    hidden = torch.randn(T, 2 * r, device=like.device).to(like.dtype)
    gain, dz = torch.ones(r, device=like.device), torch.randn_like(hidden[:, :r])

    def eager(hidden: Tensor = hidden, gain: Tensor = gain) -> Tensor:
        h, logits = hidden.chunk(2, dim=-1)
        gate = torch.exp(F.rms_norm(logits.float(), (r,), gain, EPS))
        return (h * gate * 2.0).to(hidden.dtype)

    leaves = [hidden.clone().requires_grad_(), gain.clone().requires_grad_()]

    def eager_backward() -> object:
        return torch.autograd.grad(eager(*leaves), leaves, dz)

    size = hidden.numel() * hidden.element_size()
    yield Launch(
        "gated", {"r": r}, size * 3 // 2, lambda: gated(hidden, gain, 2.0, EPS), None, eager
    )
    yield Launch(
        "gated_backward (eager: both)", {"r": r}, size * 5 // 2,
        lambda: gated_backward(dz, hidden, gain, 2.0, EPS), None, eager_backward,
    )  # fmt: skip


def errors(T: int, n: int, k: int, p: float, data: dict[str, Tensor]) -> dict[str, float]:
    """The largest error of each product against float32, with the mask the kernels apply."""
    from toplora_train.adapters.kernels.projection import (
        project,
        project_backward_input,
        project_backward_weight,
    )

    x = data["x"]
    K, dhidden = torch.randn_like(x[:k]), torch.randn(T, k, device=x.device).to(x.dtype)
    drop, ones = torch.zeros(T, n, device=x.device), torch.ones(T + n, 1, device=x.device)
    project_backward_input(ones[:T], ones[T:].T.contiguous(), p, SEED, 1, drop)
    rows, narrow = K.float().split(k // 2), dhidden.float().split(k // 2, dim=1)
    seen = (x.float() * drop, x.float())
    dx = torch.zeros_like(x)
    project_backward_input(dhidden, K, p, SEED, k // 2, dx)
    pairs = {
        "project": (
            project(x, K, p, SEED, k // 2),
            torch.cat([each @ part.T for each, part in zip(seen, rows, strict=True)], dim=1),
        ),
        "project_backward_input": (dx, drop * (narrow[0] @ rows[0]) + narrow[1] @ rows[1]),
        "project_backward_weight": (
            project_backward_weight(dhidden, x, p, SEED, k // 2),
            torch.cat([part.T @ each for part, each in zip(narrow, seen, strict=True)]),
        ),
    }
    return {
        name: ((found.float() - exact).abs().max() / exact.abs().max()).item()
        for name, (found, exact) in pairs.items()
    }


def milliseconds(run: Callable[[], object], cuda: bool) -> float:
    if cuda:
        from triton.testing import do_bench

        return float(do_bench(run, warmup=2, rep=10, return_mode="median"))
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) * 1e3


def matrices(T: int, n: int, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    x, dx = (torch.randn(T, n, device=device).to(dtype) for _ in range(2))
    return {"x": x, "dx": dx, "kept": (torch.rand(T, n, device=device) >= 0.05).to(dtype)}


def tuned(launch: Callable[[str], float]) -> list[dict[str, object]]:
    """The three products with other tiles than the chosen ones, for whoever changes the choice."""
    from toplora_train.adapters.kernels import projection

    chosen, found = projection.tiles_of, []
    variants = {
        "forward": [(64, 128, 4), (64, 128, 8), (64, 64, 4), (32, 128, 4), (128, 64, 8)],
        "backward_input": [(64, 64, 4), (64, 128, 4), (64, 128, 8), (32, 128, 4), (128, 64, 8)],
        "backward_weight": [(64, 128, 8), (64, 128, 4), (64, 64, 4), (32, 128, 4), (128, 64, 8)],
    }
    names = {"forward": "project"} | {
        f"backward_{x}": f"project_backward_{x}" for x in ("input", "weight")
    }
    for field, tiles in variants.items():
        for tile in tiles:
            replaced = {field: projection.Tile(*tile)}
            projection.tiles_of = lambda *a, new=replaced: chosen(*a)._replace(**new)
            try:
                found.append({"kernel": names[field], "tile": tile, "us": launch(names[field])})
            except Exception as error:  # a tile that the device cannot hold is a result
                found.append({"kernel": names[field], "tile": tile, "error": str(error)[:80]})
            finally:
                projection.tiles_of = chosen
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the results as JSON to this file")
    parser.add_argument("--seconds", type=float, default=40, help="stop measuring after so long")
    parser.add_argument("--tune", action="store_true", help="time other tiles as well")
    parser.add_argument("--interpret", action="store_true", help="tiny shapes in the interpreter")
    arguments = parser.parse_args()
    cuda = not arguments.interpret
    if cuda and not torch.cuda.is_available():
        print("no CUDA device: nothing is measured")
        return
    began = time.perf_counter()
    if cuda:
        device, dtype, T = "cuda", torch.bfloat16, 16384
        shapes = [(n, k) for n in (4096, 2048, 14336) for k in (16, 32, 64)]
    else:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton decorates a function
        device, dtype, T, shapes = "cpu", torch.float32, 70, [(96, 16)]
    probabilities = (0.05, 0.0)
    torch.manual_seed(0)
    ranks = sorted({k // 2 for _, k in shapes})

    def left() -> float:
        return arguments.seconds - (time.perf_counter() - began)

    # Compiled side by side, in threads: that takes longer than all the measuring.
    small = matrices(T, shapes[0][0], device, dtype)
    first = [
        launch.kernel
        for k in sorted({k for _, k in shapes})
        for p in probabilities
        for launch in projections(T, shapes[0][0], k, p, small)
    ]
    first += [launch.kernel for r in ranks for launch in gates(T, r, small["x"])]
    first[0]()  # alone: it builds what all of Triton's launches share
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1) if cuda else 1) as pool:
        list(pool.map(lambda run: run(), first[1:]))
    compiled = time.perf_counter() - began
    accuracy = {str(p): errors(T, shapes[0][0], shapes[0][1], p, small) for p in probabilities}

    heading = {
        "device": torch.cuda.get_device_name() if cuda else "Triton's interpreter",
        "torch": torch.__version__,
        "triton": sys.modules["triton"].__version__,
        "dtype": str(dtype),
        "T": T,
        "compile s": compiled,
        "errors": accuracy,
    }
    print(*(f"{name}: {found}" for name, found in heading.items()), sep="\n")
    print(f"{'kernel':37}{'n|r':>6}{'k':>4}{'p':>6}{'us':>9}{'GB/s':>7}{'copy':>6}", end="")
    print(f"{'cuBLAS':>9}{'eager':>9}", flush=True)
    rows: list[dict[str, object]] = []
    skipped: list[str] = []

    def measure(launch: Launch, copy: float) -> None:
        if left() < 0:
            skipped.append(f"{launch.name} {launch.shape}")
            return
        taken = milliseconds(launch.kernel, cuda)
        speed = launch.bytes / taken / 1e6
        cublas = milliseconds(launch.cublas, cuda) if launch.cublas else float("nan")
        eager = milliseconds(launch.eager, cuda)
        found = {"us": taken * 1e3, "GB/s": speed, "of copy": speed / copy}
        found |= {"cuBLAS us": cublas * 1e3, "eager us": eager * 1e3}
        rows.append({"kernel": launch.name, **launch.shape} | found)
        n, k, p = (launch.shape.get(name, "") for name in ("n", "k", "p"))
        print(
            f"{launch.name:37}{n or launch.shape['r']:>6}{k:>4}{p:>6}{taken * 1e3:>9.1f}"
            f"{speed:>7.0f}{speed / copy:>6.0%}{cublas * 1e3:>9.1f}{eager * 1e3:>9.1f}",
            flush=True,
        )

    for n in dict.fromkeys(n for n, _ in shapes):
        data = small if n == shapes[0][0] else matrices(T, n, device, dtype)
        target = torch.empty_like(data["x"])
        moved = 2 * target.numel() * target.element_size()
        copy = milliseconds(lambda t=target, x=data["x"]: t.copy_(x), cuda)
        ceiling = moved / copy / 1e6
        print(f"copy {n:>32} {ceiling:>31.0f} GB/s")
        for k in (k for m, k in shapes if m == n):
            for p in probabilities:
                for launch in projections(T, n, k, p, data):
                    measure(launch, ceiling)
    for r in ranks:
        for launch in gates(T, r, small["x"]):
            measure(launch, ceiling)

    tiles: list[dict[str, object]] = []
    if arguments.tune and left() > 0:
        n, k = shapes[0]
        runs = {each.name: each.kernel for each in projections(T, n, k, 0.05, small)}
        tiles = tuned(lambda name: milliseconds(runs[name], cuda) * 1e3)

    for row in tiles:
        print(row)
    if skipped:
        print(f"not measured, --seconds {arguments.seconds:g} were over: {', '.join(skipped)}")
    if arguments.out:
        result = heading | {"rows": rows, "tiles": tiles, "not measured": skipped}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
