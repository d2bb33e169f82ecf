"""GraLoRA as PEFT computes it: a LoRA for each block of the weight.

Paper: "GraLoRA: Granular Low-Rank Adaptation" (arXiv 2505.20355).

    y = W0 x + s dW drop(x),   dW[j, i] = B_j E_j A_i    for blocks i, j = 1 .. k
    with hybrid_r > 0:  dW + B A, a plain LoRA of that rank

Shapes: W0 (m, n) frozen, k x k blocks dW[j, i] (m / k, n / k) of rank r / k, A_i (r, n / k),
B_j (m / k, r); E_j selects the part j of A_i's r outputs for the part i of B_j's r inputs;
x (..., n), y (..., m). s = alpha / (r + hybrid_r). k (``gralora_k``) divides r, n and m.

Start: A Kaiming-uniform, B zero, so that the update is exactly zero.

Parameters: (r + hybrid_r) (n + m) per module, as LoRA's, while the rank of dW is up to k r.
Cost: LoRA's products. Merges: the update is a fixed matrix; its rank is k r, so there is no plain
LoRA of rank r to export.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import PeftConfig

from toplora_train.adapters.peft import named_config


def rank_step(settings: Mapping[str, Any]) -> int:
    """Of which the rank is a multiple: k."""
    return int(settings.get("gralora_k", 2))


def peft_config(settings: Mapping[str, Any]) -> PeftConfig:
    """The PEFT config for the keys of ``conf/adapter/gralora.yaml``.

    Raises:
        TypeError, ValueError: An invalid value; the message starts with its key.
    """
    own = ("alpha", "gralora_k", "hybrid_r")
    return named_config("GRALORA", settings, {"dropout": "gralora_dropout"}, own)
