"""Measure attention at lengths that it has not seen, by each of PyTorch's kernels.

    python benchmarks/attention.py [--rows 16] [--heads 32] [--from 110] [--long 1024]

Forward and backward pass of one layer, heads of 64, bf16 on a CUDA device and float32 elsewhere,
with a mask as padded rows have it and without one. For each kernel that computes it, in ms: the
median of the eight lengths after ``--from``, each computed once (``new``); the median of eight
passes of the last of them (``same``); and the least of five of ``--long`` tokens. Prints JSON.
"""

import argparse
import json
import time
from statistics import median

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def milliseconds(rows: int, heads: int, length: int, *, masked: bool) -> float:
    shape, dtype = (rows, heads, length, 64), torch.bfloat16 if DEVICE == "cuda" else torch.float32
    inputs = [torch.randn(shape, device=DEVICE, dtype=dtype, requires_grad=True) for _ in "qkv"]
    lower = torch.ones(rows, 1, length, length, dtype=torch.bool, device=DEVICE).tril()
    how = {"attn_mask": lower} if masked else {"is_causal": True}
    wait()
    began = time.perf_counter()
    F.scaled_dot_product_attention(*inputs, **how).sum().backward()
    wait()
    return 1e3 * (time.perf_counter() - began)


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def measure(rows: int, heads: int, first: int, long: int, *, masked: bool) -> dict[str, float]:
    def passes(lengths: list[int]) -> list[float]:
        return [milliseconds(rows, heads, length, masked=masked) for length in lengths]

    passes([first])
    new = passes([first + number for number in range(1, 9)])
    found = {"new": median(new), "same": median(passes([first + 8] * 8))}
    return {key: round(ms, 2) for key, ms in (found | {"long": min(passes([long] * 5))}).items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--from", dest="first", type=int, default=110)
    parser.add_argument("--long", type=int, default=1024)
    arguments = vars(parser.parse_args())
    found: dict[str, dict[str, dict[str, float] | str]] = {"with a mask": {}, "causal": {}}
    for name, kernel in KERNELS.items():
        for how, of_each in found.items():
            try:
                with sdpa_kernel([kernel]):
                    of_each[name] = measure(**arguments, masked=how == "with a mask")
            except RuntimeError as error:
                of_each[name] = str(error).splitlines()[0]
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else DEVICE
    print(json.dumps({"device": device, "torch": torch.__version__, "ms": found}, indent=1))


if __name__ == "__main__":
    main()
