"""Uni-LoRA as PEFT computes it: all entries of all A and B are those of one trained vector.

Paper: "Uni-LoRA: One Vector Is All You Need" (arXiv 2506.00799).

    y = W0 x + B A drop(x),   every entry of A and B is theta[i] / sqrt(count[i])

Shapes: W0 (m, n) frozen, A (r, n), B (m, r), theta (d) shared by all modules; x (..., n),
y (..., m). The index i of each entry is drawn from ``proj_seed``, each as often as any other to
within one; count[i] is how often. There is no alpha.

Start: theta uniform in +-0.02 (``init_theta_d_bound``), so that the update is small but not zero.
The indices are drawn again when the adapter is loaded, unless ``save_indices`` puts them into the
file, which a change of PEFT cannot alter then.

Parameters: d (``theta_d_length``) in all, whatever the rank: ``budget`` does not apply.
Cost: LoRA's, and building A and B in every pass, r (n + m) gathered numbers per module.
Merges: the update is the fixed matrix B A.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import PeftConfig

from toplora_train.adapters.peft import named_config


def peft_config(settings: Mapping[str, Any]) -> PeftConfig:
    """The PEFT config for the keys of ``conf/adapter/unilora.yaml``.

    Raises:
        TypeError, ValueError: An invalid value; the message starts with its key.
    """
    own = ("theta_d_length", "proj_seed", "init_theta_d_bound", "save_indices")
    config: Any = named_config("UNILORA", settings, {"dropout": "unilora_dropout"}, own)
    if config.theta_d_length < config.r:
        raise ValueError(f"theta_d_length must be at least r = {config.r}")
    return config
