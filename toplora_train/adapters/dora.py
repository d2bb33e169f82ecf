"""DoRA, as PEFT computes it: LoRA for the direction of each row of the weight, and its magnitude.

Paper: "DoRA: Weight-Decomposed Low-Rank Adaptation" (arXiv 2402.09353).

    W' = diag(g) (W0 + s B A),   g = mag / ||W0 + s B A||_row,   y = W' x
    with dropout:  y = W0 x + (g - 1) W0 drop(x) + g s B A drop(x)

Shapes: W0 (m, n) frozen, A (r, n), B (m, r), mag (m) and g (m); x (..., n), y (..., m). The row
norm is detached from the graph. s as in LoRA. Start: A and B as in LoRA, mag = ||W0||_row, so that
W' = W0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import LoraConfig

from toplora_train.adapters.lora import lora_config

MERGEABLE = True


def peft_config(settings: Mapping[str, Any]) -> LoraConfig:
    """The PEFT config for the keys of ``conf/adapter/dora.yaml``, which are LoRA's.

    Raises:
        TypeError, ValueError: A bad value; the message begins with its key.
    """
    return lora_config(settings, use_dora=True)
