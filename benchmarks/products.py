"""Measure fp32 matrix products on this CPU with both libraries included in torch.

    python benchmarks/products.py

GFLOP/s of MKL and oneDNN for the shapes of a small model (rows, inner, columns), interleaved, best
of several rounds; the largest error of each relative to float64, in units of the square root of the
inner dimension (`toplora_train/run/platform/cpu_matmul.py` explains when oneDNN is used). Prints
JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from toplora_train.run.platform.cpu_matmul import PRODUCTS, largest_error

SHAPES = {
    "up projection, a training batch": (1664, 576, 1536),
    "down projection, a training batch": (1664, 1536, 576),
    "adapter, a training batch": (1664, 576, 8),
    "up projection, a decoding step": (32, 576, 1536),
    "head, a decoding step": (32, 576, 49152),
}
LIBRARIES = {"MKL": "ieee", "oneDNN": "bf16"}  # the precision setting that selects each


def speed(left: torch.Tensor, right: torch.Tensor) -> float:
    """FLOP/s of a product, measured for at least 0.2 s."""
    flops = 2 * left.shape[0] * left.shape[1] * right.shape[0]
    torch.nn.functional.linear(left, right)
    began, times = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < 0.2:
        torch.nn.functional.linear(left, right)
        times += 1
    return times * flops / taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {name: {} for name in SHAPES}
    errors = {}
    with torch.inference_mode():
        for _ in range(arguments.rounds):
            for name, (rows, inner, columns) in SHAPES.items():
                left, right = torch.randn(rows, inner), torch.randn(columns, inner)
                for library, precision in LIBRARIES.items():
                    PRODUCTS.fp32_precision = precision
                    best = max(found[name].get(library, 0.0), speed(left, right) / 1e9)
                    found[name][library] = round(best, 1)
                    errors[library] = largest_error()
    print(
        json.dumps(
            {"threads": torch.get_num_threads(), "gflops": found, "largest_error": errors}, indent=2
        )
    )


if __name__ == "__main__":
    main()
