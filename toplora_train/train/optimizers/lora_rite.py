"""LoRA-RITE (Yen et al., 2024, arXiv 2410.20625): the same step in W however A and B are scaled.

With ``A' = Q_A R_A`` and ``B = Q_B R_B`` (QR), the gradients without the other factor's size are

    u_A = g_A' R_B^+,    u_B = g_B R_A^+

Their second moments, r x r, and first moments are carried from basis to basis; the step is

    A' <- A' - lr M_A (R_B^+)',    B <- B - lr M_B (R_A^+)'

Per pair: a first moment and a basis of the sizes of A and of B, and two r x r matrices: AdamW's
state and a little. pytorch-optimizer's ``LoRARite``. Other tensors are AdamW's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from toplora_train.config.errors import UserError
from toplora_train.train.optimizers.pairs import factor_pairs
from toplora_train.train.optimizers.parts import InParts, on_cuda, select


def build_optimizer(
    groups: list[dict[str, Any]],
    *,
    model: nn.Module,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    clip_unmagnified_grad: float = 1.0,
    update_skipping: float = 1.0,
    apply_escape: bool = False,
) -> torch.optim.Optimizer:
    """LoRA-RITE for the pairs, AdamW for other tensors; see the package for the settings.

    Raises:
        UserError: The adapter has no pairs A and B, the learning rates of a pair's factors differ,
            or pytorch-optimizer is not installed.
    """
    try:
        from pytorch_optimizer import LoRARite
    except ImportError as error:
        raise UserError(
            "optimizer=lora_rite needs pytorch-optimizer; install it: "
            "pip install 'toplora-train[optimizers]'"
        ) from error
    pairs = factor_pairs(model, optimizer="lora_rite")
    partner = {id(pair.a): pair.b for pair in pairs}
    paired = {id(p) for pair in pairs for p in (pair.a, pair.b)}
    in_pairs = []
    for group in select(groups, lambda p: id(p) in paired):
        held = {id(p) for p in group["params"]}
        firsts = [p for p in group["params"] if id(p) in partner]
        if held != {id(p) for a in firsts for p in (a, partner[id(a)])}:
            raise UserError(
                "optimizer=lora_rite steps A and B of a layer together; give both the same factor "
                "in optimizer.lr_multipliers, and name both in optimizer.no_decay or neither"
            )
        in_pairs.append({**group, "params": [p for a in firsts for p in (a, partner[id(a)])]})
    rite = LoRARite(
        in_pairs,
        lr=lr,
        betas=betas,
        eps=eps,
        clip_unmagnified_grad=clip_unmagnified_grad,
        update_skipping=update_skipping,
        apply_escape=apply_escape,
    )
    rite.register_step_post_hook(_rows_first)
    parts: list[torch.optim.Optimizer] = [rite]
    if others := select(groups, lambda p: id(p) not in paired):
        fused = on_cuda(others)
        parts.append(torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps, fused=fused))
    return InParts(parts)


def _rows_first(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Lay the state out as a checkpoint does: products round according to the layout."""
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                state[key] = value.contiguous()
