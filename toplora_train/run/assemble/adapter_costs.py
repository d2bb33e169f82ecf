"""The parameters of each adapter on this model: at the same rank, and at the same budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from toplora_train.adapters.attach import fit_to_budget, parameter_counter
from toplora_train.adapters.budget import Count
from toplora_train.adapters.tenslora_constructions import CONSTRUCTIONS
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.config.locate import options
from toplora_train.models.layers import first_layers, repeated_layers
from toplora_train.report.plan import Alternative, Comparison

# LoRA first, as the reference; PEFT's other methods need settings of their own.
SHIPPED = [name for name, option in options("adapter").items() if option.module is None]
# Activated LoRA has LoRA's; a fusion has no rank.
OTHERS = ("lora", "peft", "alora", "fusion")
ADAPTERS = ("lora", *(name for name in SHIPPED if name not in OTHERS))
FEW = (1, 2, 3)
BY_LAYER = ("layers_to_transform", "exclude_modules", "rank_pattern")  # may differ between layers
CARRIED_OVER = ("target_modules", "exclude_modules", "layers_to_transform")


def compare_adapters(model: nn.Module, chosen: Mapping[str, Any]) -> Comparison:
    """Count every adapter's parameters on the modules of the chosen one.

    TensLoRA is counted in each of its constructions with Tucker, and in the last with CP too; the
    chosen one as configured, if it is the user's own or another method of PEFT.

    Args:
        model: The base model; weights are not needed, and it is not changed.
        chosen: The run's adapter settings.
    """
    rank = chosen.get("r") or 8
    budget = chosen.get("budget") or f"lora_r{rank}"
    carried = {key: chosen[key] for key in CARRIED_OVER if chosen.get(key) is not None}
    count = counter(model)
    resolved = _resolve(model, chosen, budget, count)
    lines = [
        _alternative(model, label, {**settings, **carried, "r": rank}, resolved, count)
        for label, settings in _every_adapter()
    ]
    if chosen["name"] not in ADAPTERS:
        label = chosen.get("peft_type") or chosen["name"]
        lines.append(_alternative(model, str(label).lower(), chosen, resolved, count))
    return Comparison(f"r = {rank}", str(budget), lines)


def counter(model: nn.Module) -> Count:
    """As :func:`parameter_counter`, but on few layers where those are enough.

    Where all layers are alike, and a second and a third one add the same number of parameters, so
    does every further one; what the layers share, as TensLoRA's depth does, is counted on all.
    """
    whole, layers = parameter_counter(model), repeated_layers(model)
    shapes = [[tensor.shape for tensor in layer.parameters()] for layer in layers]
    stacks = [one for one in model.modules() if isinstance(one, nn.ModuleList) if layers == [*one]]
    if len(layers) <= len(FEW) or any(one != shapes[0] for one in shapes) or not stacks:
        return whole
    few = []
    for size in FEW:
        with first_layers(model, size):
            few.append(parameter_counter(model))

    def count(settings: Mapping[str, Any]) -> int:
        pattern = isinstance(settings.get("target_modules"), str)  # it may name layers
        pattern = pattern and settings["target_modules"] != "all-linear"
        if pattern or any(settings.get(key) for key in BY_LAYER):
            return whole(settings)
        try:
            one, two, three = (counted(settings) for counted in few)
        except UserError:  # of all layers it may be none
            return whole(settings)
        same = three - two == two - one
        return one + (len(layers) - 1) * (two - one) if same else whole(settings)

    return count


def _resolve(model: nn.Module, chosen: Mapping[str, Any], budget: Any, count: Count) -> Any:
    """The budget as a number, so that it is computed once."""
    own = {key: chosen.get(key) for key in CARRIED_OVER}
    try:
        return fit_to_budget(model, {"name": "lora", **own, "budget": budget}, count).wanted
    except UserError:  # every line will give the reason
        return budget


def _every_adapter() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ADAPTERS:
        settings, _ = adapter_defaults(name)
        if name != "tenslora":
            yield name, settings
            continue
        for construction in CONSTRUCTIONS:
            yield f"tenslora {construction}", {**settings, "construction": construction}
        yield (
            f"tenslora {construction}, cp",
            {**settings, "factorization": "cp"} | {"construction": construction},
        )


def _alternative(
    model: nn.Module, label: str, settings: Mapping[str, Any], budget: object, count: Count
) -> Alternative:
    try:
        parameters = count(settings)
    except UserError as error:
        return Alternative(label, None, refusal=str(error))
    try:
        fit = fit_to_budget(model, {**settings, "budget": budget}, count)
    except UserError as error:
        return Alternative(label, parameters, refusal=str(error))
    ranks = fit.settings.get("ranks") or [fit.settings["r"]]
    return Alternative(
        label,
        parameters,
        fitted_rank=" ".join(map(str, ranks)),
        fitted_parameters=fit.parameters,
        miss=fit.parameters / fit.wanted - 1,
    )
