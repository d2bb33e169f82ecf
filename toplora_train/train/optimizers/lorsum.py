"""LoRSum, also called OPLoRA or PSI-LoRA (arXiv 2602.16456): A and B follow W's own gradient step.

The adapter ``adapter=orthogonal`` has a paper that is called OPLoRA, too (arXiv 2510.13003).

With a layer's inputs X (T x n) and the gradients S (T x m) of its outputs, W's gradient is S'X. A
low-rank sum ``LoRSum(sum_i c_i B_i A_i)`` starts from (A, B) and takes ``num_iters`` rounds of

    A+ = (B+'M B+ + lam I)^-1 (lam A + sum_i c_i (B+'M B_i) A_i)
    B+ = (lam B + sum_i c_i B_i (A_i N A+')) (A+ N A+' + lam I)^-1

with ``lam = lr lmbd``. A step is the sum of (A, B) with c = 1, (X N^-1, M^-1 S') with
c = -lr (1 - damp) and the momentum pair, divided alike, with c = -lr momentum. That pair, of A's
and B's shapes, then becomes the sum of itself with c = momentum and (X, S') with c = 1 - damp, both
with M = N = 1; it starts at normal numbers and zero.

M (m) and N (n) are K-FAC's diagonal metrics, those of the scaled form: the power ``metric_power``
of ``damping`` plus moving averages, ``metric_beta`` of the old one, of T sum_t S^2 and mean_t X^2,
which start at 1. ``metric_power = 0`` is the plain form; the scaled one has ``damp = momentum``.

Our reading, as the authors' layer has no scaling: s is part of B. X is the layer's input before
dropout, T all its tokens but padding. The authors' scaled form has AdamW for other tensors, and lam
is at least 1e-5 in its step.

Sums are computed in float64: lam is small beside the rounding of float32.

State: A's and B's sizes, and m + n of metrics in the scaled form. Until the step X and S of every
layer are kept, T (m + n) numbers for T tokens; micro-batches are joined, so that accumulation
changes nothing. Other tensors are SGD's.
``betas`` and ``eps`` are not used. Not read are A's and B's own gradients, so that
``trainer.max_grad_norm`` has no effect on them: ``max_grad_norm`` here limits the norm of all S'X.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from toplora_train.config.errors import UserError
from toplora_train.train.optimizers.pairs import Pair, factor_pairs
from toplora_train.train.optimizers.parts import InParts, select


class Term(NamedTuple):
    """``c B A``, with A ``(k, n)`` and B ``(m, k)``."""

    a: Tensor
    b: Tensor
    c: float


class Metric(NamedTuple):
    """Weights of a layer's inputs ``(n,)`` and outputs ``(m, 1)``."""

    inputs: Tensor | float
    outputs: Tensor | float

    def divide(self, term: Term) -> Term:
        """The term of ``M^-1 B A N^-1``."""
        return Term(term.a / self.inputs, term.b / self.outputs, term.c)


PLAIN = Metric(1.0, 1.0)


class Passes:
    """X and S of each micro-batch since the last step, by pair, without padded positions."""

    def __init__(self, model: nn.Module) -> None:
        self.by_pair: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._mask: Tensor | None = None
        model.register_forward_pre_hook(self._remember_mask, with_kwargs=True)

    def _remember_mask(self, _model: nn.Module, _inputs: Any, given: dict[str, Any]) -> None:
        self._mask = given.get("attention_mask")

    def recorder(self, number: int) -> Callable[..., None]:
        """A forward hook that keeps a pair's input and, once computed, its output's gradient."""

        def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if module.training and output.requires_grad:
                x, mask = inputs[0].detach(), self._mask

                def keep(s: Tensor) -> None:
                    both = x, s.detach()
                    if mask is not None and mask.shape == x.shape[:-1]:
                        real = mask.bool()
                        both = x[real], s.detach()[real]
                    self.by_pair.setdefault(number, []).append(both)

                output.register_hook(keep)  # type: ignore[no-untyped-call]  # untyped in its package

        return record


def build_optimizer(
    groups: list[dict[str, Any]],
    *,
    model: nn.Module,
    lr: float,
    betas: tuple[float, float],  # noqa: ARG001  # every rule gets it
    eps: float,  # noqa: ARG001  # every rule gets it
    momentum: float = 0.9,
    damp: float = 0.0,
    lmbd: float = 1e-2,
    num_iters: int = 1,
    metric_power: float = 0.0,
    metric_beta: float = 0.99,
    damping: float = 1e-5,
    max_grad_norm: float = 1.0,
) -> torch.optim.Optimizer:
    """LoRSum for the pairs, SGD for other tensors.

    Raises:
        UserError: The adapter is not plain LoRA, a setting is out of range, or the learning rates
            of a pair's factors differ.
    """
    for key, value, least, below in (
        ("momentum", momentum, 0, 1),
        ("damp", damp, 0, 1),
        ("lmbd", lmbd, 1e-12, float("inf")),
        ("num_iters", num_iters, 1, float("inf")),
        ("metric_power", metric_power, 0, float("inf")),
        ("metric_beta", metric_beta, 0, 1),
        ("damping", damping, 1e-12, float("inf")),
        ("max_grad_norm", max_grad_norm, 0, float("inf")),
    ):
        if not least <= value < below:
            raise UserError(f"optimizer.settings.{key} must be from {least} to below {below}")
    pairs = factor_pairs(model, optimizer="lorsum", plain=True)
    paired = {id(p) for pair in pairs for p in (pair.a, pair.b)}
    in_pairs = select(groups, lambda p: id(p) in paired)
    scales = {id(p): group["lr_scale"] for group in in_pairs for p in group["params"]}
    if any(scales[id(pair.a)] != scales[id(pair.b)] for pair in pairs):
        raise UserError(
            "optimizer=lorsum steps A and B of a layer together; give both the same factor in "
            "optimizer.lr_multipliers"
        )
    how = {
        "momentum": momentum,
        "damp": damp,
        "lmbd": lmbd,
        "num_iters": num_iters,
        "metric_power": metric_power,
        "metric_beta": metric_beta,
        "damping": damping,
    }
    parts: list[torch.optim.Optimizer] = [
        LoRSum(in_pairs, pairs, model, lr=lr, max_grad_norm=max_grad_norm, **how)
    ]
    if others := select(groups, lambda p: id(p) not in paired):
        parts.append(torch.optim.SGD(others, lr=lr, momentum=momentum, dampening=damp))
    return InParts(parts)


class LoRSum(torch.optim.Optimizer):
    """LoRSum's step of every pair; it reads the layers' inputs and gradients by hooks.

    Args:
        groups: Parameter groups of the pairs' factors.
        pairs: The pairs.
        model: The model that they are in.
        max_grad_norm: The largest norm of all gradients S'X together; 0: no clipping.
        defaults: ``lr`` and the rule's other settings.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        pairs: Sequence[Pair],
        model: nn.Module,
        *,
        max_grad_norm: float,
        **defaults: Any,
    ) -> None:
        super().__init__(groups, defaults)
        self._pairs = pairs
        self._max_grad_norm = max_grad_norm
        self._passes = Passes(model)
        for number, pair in enumerate(pairs):
            pair.layer.register_forward_hook(self._passes.recorder(number))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the passes since the last step, and the gradients."""
        self._passes.by_pair.clear()
        super().zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure is given here
        """Take a step."""
        assert closure is None
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        gradients = {number: _joined(passes) for number, passes in self._passes.by_pair.items()}
        self._passes.by_pair.clear()
        scale: Tensor | float = 1.0
        if self._max_grad_norm and gradients:
            norm = sum(_squared_norm(x, s) for x, s in gradients.values()) ** 0.5
            scale = (self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        for number, (x, s) in gradients.items():
            pair = self._pairs[number]
            group = groups[id(pair.a)]  # B's differs in weight decay alone
            decay_of_b = groups[id(pair.b)]["weight_decay"]
            if group["lr"] > 0:
                self._step(pair, number, x, (s * scale).T, group, decay_of_b)

    def _step(
        self,
        pair: Pair,
        number: int,
        x: Tensor,
        s: Tensor,
        group: dict[str, Any],
        decay_of_b: float,
    ) -> None:
        lr, momentum, kept = group["lr"], group["momentum"], 1 - group["damp"]
        how = {"lam": lr * group["lmbd"], "rounds": group["num_iters"]}
        a, b, x, s = pair.a.double(), pair.b.double() * pair.scaling, x.double(), s.double()
        metric = self._metric(pair, x, s, group)
        terms = [Term(a, b, 1.0), metric.divide(Term(x, s, -lr * kept))]
        targets = [pair.a, pair.b]
        moved: list[Tensor] = []
        if momentum:
            of_a, of_b = self.state[pair.a], self.state[pair.b]
            if "momentum" not in of_a:
                drawn = torch.Generator().manual_seed(number)
                of_a["momentum"] = torch.randn(a.shape, generator=drawn).to(pair.a)
                of_b["momentum"] = torch.zeros_like(pair.b)
            targets += [of_a["momentum"], of_b["momentum"]]
            held = of_a["momentum"].double(), of_b["momentum"].double()
            moved += low_rank_sum(*held, [Term(*held, momentum), Term(x, s, kept)], **how)
            terms.append(metric.divide(Term(*held, -lr * momentum)))
        a, b = low_rank_sum(a, b, terms, metric=metric, **how)
        a, b = a * (1 - lr * group["weight_decay"]), b * (1 - lr * decay_of_b) / pair.scaling
        # Only now: in float64 the terms are these tensors themselves.
        for target, value in zip(targets, [a, b, *moved], strict=True):
            target.copy_(value)

    def _metric(self, pair: Pair, x: Tensor, s: Tensor, group: dict[str, Any]) -> Metric:
        """The metrics of a layer, with this step's X ``(T, n)`` and S' ``(m, T)``."""
        power, beta = group["metric_power"], group["metric_beta"]
        if not power:
            return PLAIN
        both = []
        for factor, new in (
            (pair.a, x.square().mean(dim=0)),
            (pair.b, len(x) * s.square().sum(dim=1, keepdim=True)),
        ):
            state = self.state[factor]
            if "metric" not in state:
                state["metric"] = torch.ones_like(new, dtype=factor.dtype)
            state["metric"].lerp_(new.to(factor), 1 - beta)
            both.append((state["metric"].double() + group["damping"]) ** power)
        return Metric(*both)


def low_rank_sum(
    a: Tensor,
    b: Tensor,
    terms: Sequence[Term],
    *,
    lam: float,
    rounds: int,
    metric: Metric = PLAIN,
) -> tuple[Tensor, Tensor]:
    """The factors of a sum of products, from ``a (r, n)`` and ``b (m, r)``, which hold them back.

    Args:
        a: The start of A.
        b: The start of B.
        terms: What is summed.
        lam: The ridge.
        rounds: How often A and B are solved for in turn.
        metric: What the sum's error is weighted by.
    """
    new_a, new_b = a, b
    for _ in range(rounds):
        left = (metric.outputs * new_b).T
        target = lam * a + sum(c * (left @ other) @ one for one, other, c in terms)
        new_a = _ridge_solve(left @ new_b, lam, target)
        right = (new_a * metric.inputs).T
        target = lam * b + sum(c * other @ (one @ right) for one, other, c in terms)
        new_b = _ridge_solve(new_a @ right, lam, target.T).T
    return new_a, new_b


def _ridge_solve(gram: Tensor, lam: float, target: Tensor) -> Tensor:
    """``(gram + lam I)^-1 target``."""
    ridge = lam * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solved: Tensor = torch.linalg.solve(gram + ridge, target)
    return solved


def _joined(passes: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """X ``(T, n)`` and S ``(T, m)`` over all micro-batches, in float32 or wider."""
    x, s = (torch.cat([t.flatten(0, -2) for t in parts]) for parts in zip(*passes, strict=True))
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.to(dtype), s.to(dtype)


def _squared_norm(x: Tensor, s: Tensor) -> Tensor:
    """``||S'X||^2``, by the smaller of S'X and XX', SS'."""
    if len(x) ** 2 < x.shape[1] * s.shape[1]:
        return ((x @ x.T) * (s @ s.T)).sum()
    return (s.T @ x).square().sum()
