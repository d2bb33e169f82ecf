"""Read trained adapters as the factors that a fusion weights.

In every module an adapter's update is written in one form,

    update(x) = c * (W0 x) + B (A x * g(x Theta; gain))

Shapes: A (r, n), B (m, r) with the scaling, c (m), Theta (n, r), gain (r). Theta and gain are
TopLoRA's gate and c is DoRA's change of magnitude, mag / ||W0 + s B A||_row - 1, whose factor is in
B as well; other adapters have neither.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftModel
from torch import Tensor, nn

from toplora_train.adapters.base import AdapterLinear, frozen_weight
from toplora_train.adapters.configs import AdapterConfig
from toplora_train.adapters.describe import adapter_state
from toplora_train.adapters.saving import (
    WEIGHTS_FILE,
    adapter_folder,
    load_adapter,
    read_adapter_config,
    sha256_of,
)
from toplora_train.adapters.updates import adapted_layers, thin_factors
from toplora_train.config.errors import UserError
from toplora_train.models.sharded import is_sharded

MOST_EXPERTS = 64
"""Adapters of a fusion; a file's are counted before memory is reserved for them."""
FUSIBLE = "lora, dora, toplora, tenslora, genlora, sbora and orthogonal"
LORA_TENSORS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
"""A module's tensors in the file of a LoRA or DoRA."""
WHOLE = {
    "modules_to_save": "modules that were trained whole",
    "alora_invocation_tokens": "invocation tokens",
    "lora_bias": "biases in its updates",
    "target_parameters": "updates of single parameters",
    "trainable_token_indices": "tokens that were trained whole",
}
"""Settings of an adapter that is more than its updates, and what it has then."""


@dataclass
class Factors:
    """An adapter's tensors in a module, see above.

    Attributes:
        A: ``(r, n)``.
        B: ``(m, r)``.
        theta: ``(n, r)``, or None.
        gain: ``(r)``, or None.
        change: c, ``(m)``, or None.
    """

    A: Tensor
    B: Tensor
    theta: Tensor | None = None
    gain: Tensor | None = None
    change: Tensor | None = None


@dataclass
class Expert:
    """A trained adapter.

    Attributes:
        name: The last part of its run's path.
        sha256: The digest of its weights file.
        method: Its PEFT method.
        gate: The settings of TopLoRA's gate, or None.
        factors: Its tensors by module.
    """

    name: str
    sha256: str
    method: str
    gate: dict[str, Any] | None = None
    factors: dict[str, Factors] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The largest rank of its modules."""
        return max(len(one.A) for one in self.factors.values())

    def nothing(self, inputs: int, outputs: int) -> Factors:
        """Its tensors in a module that it does not adapt, zeros."""
        of = next(iter(self.factors.values()))
        sizes = {
            "A": (self.rank, inputs),
            "B": (outputs, self.rank),
            "theta": (inputs, self.rank),
            "gain": (self.rank,),
            "change": (outputs,),
        }
        has = {name: size for name, size in sizes.items() if getattr(of, name) is not None}
        return Factors(**{name: of.A.new_zeros(size) for name, size in has.items()})

    def described(self) -> dict[str, Any]:
        """The expert without its tensors, as a fusion's config records it."""
        magnitude = any(one.change is not None for one in self.factors.values())
        values = {key: getattr(self, key) for key in ("name", "sha256", "method", "gate")}
        return values | {"magnitude": magnitude}


def expert_folders(runs: Sequence[str], key: str) -> list[Path]:
    """The adapters' folders of two or more runs, validated to have one base model and no head.

    Args:
        runs: Runs, or folders in PEFT's format.
        key: The setting that names them, for messages.

    Raises:
        UserError: Names the run, or the two runs whose base models differ.
    """
    if isinstance(runs, str) or len({*map(str, runs)}) < max(2, len(runs)):
        raise UserError(f"{key}: a fusion needs two or more different runs, {key}=[A,B]")
    if len(runs) > MOST_EXPERTS:
        raise UserError(f"{key}: {len(runs)} runs are given; at most {MOST_EXPERTS} can be fused")
    folders = [adapter_folder(Path(str(run)).expanduser(), key) for run in runs]
    bases: dict[str, str] = {}
    for run, folder in zip(runs, folders, strict=True):
        config = read_adapter_config(folder)
        if config["peft_type"] not in PEFT_TYPE_TO_CONFIG_MAPPING:
            raise UserError(
                f"{key}: {run} is an adapter of a method of your own ({config['peft_type']}), and "
                "only this package's and PEFT's can be fused; leave it out"
            )
        if config.get("task_type") not in (None, "CAUSAL_LM"):
            raise UserError(
                f"{key}: {run} was trained for a head ({config['task_type']}), and only adapters "
                "of language models can be fused"
            )
        for setting, what in WHOLE.items():
            if config.get(setting):
                raise UserError(f"{key}: {run} has {what} ({setting}), which cannot be fused")
        if config.get("bias", "none") != "none":
            raise UserError(f"{key}: {run} has trained biases, which cannot be fused")
        if config.get("base_model_name_or_path"):
            bases.setdefault(str(config["base_model_name_or_path"]), str(run))
    if len(bases) > 1:
        (first, run), (second, other) = list(bases.items())[:2]
        raise UserError(
            f"{key}: {run} was trained on {first}, but {other} on {second}; fuse adapters of one "
            "base model"
        )
    return folders


def read_experts(model: nn.Module, folders: Sequence[Path], key: str) -> list[Expert]:
    """Read adapters that were trained on a base model, which is frozen and not changed further.

    Args:
        model: The base model; on the meta device the factors have no values either.
        folders: From :func:`expert_folders`.
        key: The setting that names them, for messages.

    Raises:
        UserError: An adapter does not fit the model, is of another model, or its update is not
            of this form; or the model is sharded.
    """
    if is_sharded(model):
        raise UserError(f"{key}: adapters cannot be read onto a sharded model; use launch=ddp")
    base = str(getattr(model, "name_or_path", ""))
    experts = []
    for folder in folders:
        run = folder.parent if folder.name == "adapter" else folder
        trained_on = read_adapter_config(folder).get("base_model_name_or_path")
        if base and trained_on and trained_on != base:
            raise UserError(
                f"{key}: {run} was trained on {trained_on}, but this run's base model is {base}"
            )
        adapted = load_adapter(_sharing_tensors(model), folder)
        with torch.no_grad():
            factors = {
                name: _factors(layer, f"{key}: {run}")
                for name, layer in adapted_layers(adapted).items()
            }
        _validate_all_read(adapted, factors, f"{key}: {run}")
        method = str(adapted.peft_config["default"].peft_type.value)
        expert = Expert(run.name, sha256_of(folder / WEIGHTS_FILE), method, _gate(adapted), factors)
        ranks = {len(one.A) for one in factors.values()}
        if expert.gate is not None and len(ranks) > 1:
            raise UserError(
                f"{key}: {run} is TopLoRA with different ranks ({min(ranks)} to {max(ranks)}), "
                "which cannot be fused"
            )
        experts.append(expert)
    return experts


def _sharing_tensors(model: nn.Module) -> nn.Module:
    """A copy of the modules alone: an adapter is attached to it without a trace in the model."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _factors(layer: Any, who: str) -> Factors:
    name = "default"
    thin = thin_factors(layer, name)
    if thin is not None:
        A, B = (factor.float() for factor in thin)
        low_rank = layer.low_rank(name) if isinstance(layer, AdapterLinear) else None
        gate = None if low_rank is None else low_rank.gate
        if gate is None:
            return Factors(A, B)
        gain = None if gate.gain is None else gate.gain.float()
        return Factors(A, B, gate.theta.float(), gain)
    if name in getattr(layer, "lora_magnitude_vector", {}):
        A, B = (getattr(layer, part)[name].weight.double() for part in ("lora_A", "lora_B"))
        B = B * layer.scaling[name]
        weight = frozen_weight(layer).double()
        magnitude = layer.lora_magnitude_vector[name].weight.double()
        g = magnitude / torch.linalg.vector_norm(weight + B @ A, dim=1)
        return Factors(A.float(), (g[:, None] * B).float(), change=(g - 1).float())
    raise UserError(
        f"{who} has no two thin factors that a gate could weight; {FUSIBLE} adapters can be fused"
    )


def _validate_all_read(adapted: PeftModel, modules: Collection[str], who: str) -> None:
    """Refuse an adapter of PEFT with a tensor that is not in the form (of an embedding, say)."""
    if isinstance(adapted.peft_config["default"], AdapterConfig):
        return  # all of it is in its layers' factors
    read = {f"base_model.model.{module}.{part}" for module in modules for part in LORA_TENSORS}
    for name in adapter_state(adapted):
        if name not in read:
            raise UserError(
                f"{who} has {name}, which is no part of a linear layer's update and cannot be fused"
            )


def _gate(adapted: PeftModel) -> dict[str, Any] | None:
    gate = getattr(adapted.peft_config["default"], "gate", None)
    return asdict(gate) if gate is not None and gate.enabled else None


def joined(
    experts: Sequence[Expert], module: str, inputs: int, outputs: int
) -> Mapping[str, Tensor]:
    """The experts' tensors in a module side by side; zero where one does not adapt it.

    Args:
        experts: The experts, of ranks r_1, ..., r_k.
        module: The module's name.
        inputs: n.
        outputs: m.

    Returns:
        ``A (sum r_i, n)``, ``B (m, sum r_i)``; ``theta (n, .)`` and ``gain (.)`` of the gated
        experts, ``change (., m)`` of those with one, where there are any.
    """
    found: dict[str, list[Tensor]] = {}
    for expert in experts:
        own = expert.factors.get(module) or expert.nothing(inputs, outputs)
        short = expert.rank - len(own.A)
        parts = {
            "A": F.pad(own.A, (0, 0, 0, short)).T,
            "B": F.pad(own.B, (0, short)),
            "theta": own.theta,
            "gain": own.gain,
            "change": None if own.change is None else own.change[:, None],
        }
        for name, part in parts.items():
            if part is not None:
                found.setdefault(name, []).append(part)
    tensors = {name: torch.cat(parts, dim=-1) for name, parts in found.items()}
    return {
        name: tensor.T.contiguous() if name in ("A", "change") else tensor
        for name, tensor in tensors.items()
    }
