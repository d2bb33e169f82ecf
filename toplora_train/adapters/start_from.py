"""Initialise an adapter from a saved one: ``adapter.start_from``.

The run's settings build the adapter; the file provides its values. Both must agree on what the
adapter computes: method, adapted modules, shapes, scaling, and every other setting that changes the
function. How a setting is written does not matter: another tool may name the target modules by a
regular expression, or give the same scaling by another alpha.

A head belongs to its task. If the file's head is for another or an unknown task it is ignored, and
the new head keeps its random initialisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import peft
import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftModel
from torch import nn

from toplora_train.adapters.attach import attach_adapter, quiet_peft, without_weights
from toplora_train.adapters.base import adapter_prefixes
from toplora_train.adapters.describe import adapter_state
from toplora_train.adapters.saving import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    read_adapter_config,
    sha256_of,
    shapes_and_dtypes,
    validate_names_match,
)
from toplora_train.adapters.stored_config import peft_errors
from toplora_train.config.adapter import adapter_defaults, shown
from toplora_train.config.errors import RunFailure, UserError
from toplora_train.models.embedding import resized_modules
from toplora_train.models.tensors import read_tensors

KEY = "adapter.start_from"
MODEL = "base_model.model."  # PEFT's prefix of tensor names
RANKS = ("r", "ranks", "rank_pattern")

TEXTUAL = {
    *(entry.name for entry in fields(PeftConfig)),
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "target_parameters",
    "modules_to_save",
    "feedforward_modules",
    "fan_in_fan_out",
    "rank_pattern",
    "r",
    "ranks",
    "runtime_config",
    "schema_version",
    "use_dora",
}
"""Settings that follow from the tensors' names and shapes, or do not change the function."""

IN_SCALING = {"alpha", "lora_alpha", "alpha_pattern", "use_rslora"}
"""Settings compared through each module's scaling, if the layers have one."""

ONLY_IN_TRAINING = ("dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config")

LEFT_THE_BASE = (True, False, None, "gaussian", "orthogonal", "eva")
"""Initialisations of PEFT's LoRA that do not change the base weights; others cannot be reused."""


@dataclass(frozen=True)
class Start:
    """A saved adapter that was validated to fit.

    Attributes:
        folder: Its folder.
        sha256: The digest of its weights file.
        tensors: The names of the tensors to load.
        left_out: The names of the ignored tensors, those of another task's head.
        new_head: The modules of the run's head that keep their random initialisation.
        trained_on: The base model named in its config.
    """

    folder: Path
    sha256: str
    tensors: tuple[str, ...]
    left_out: tuple[str, ...]
    new_head: tuple[str, ...]
    trained_on: str | None


def check_start(
    model: nn.Module, settings: Mapping[str, Any], folder: Path, *, same_task: bool
) -> Start:
    """Validate a saved adapter against the one that ``settings`` build on ``model``.

    Args:
        model: The base model, not changed; weights are not needed.
        settings: The run's adapter config group, with its budget resolved to a rank.
        folder: The saved adapter's folder.
        same_task: Whether the file's head is known to be for this run's task, and is loaded.

    Raises:
        UserError: Names the first difference: the method, the rank, the target modules, a shape,
            the scaling, or another setting; or the error in the file.
    """
    validate_own_init(settings)
    found = {name: shape for name, (shape, _) in shapes_and_dtypes(folder).items()}
    validate_names_match(model, folder)
    theirs = _peft_config(folder)
    trained_on = theirs.base_model_name_or_path
    ours = attach_adapter(without_weights(model), settings, seed=0)
    our_config = ours.peft_config["default"]
    where = f"{KEY}={folder}"
    if _method(theirs) != _method(our_config):
        raise UserError(
            f"{where}: its method is {_method(theirs)}, and this run trains {_method(our_config)} "
            f"(adapter={settings['name']}); choose the same method"
        )
    _validate_base_unchanged(theirs, where)
    expected = {name: tuple(tensor.shape) for name, tensor in adapter_state(ours).items()}
    new_head, left_out = _heads(ours, expected, found, same_task=same_task)
    taken = {name: shape for name, shape in found.items() if name not in left_out}
    wanted = {name: shape for name, shape in expected.items() if name not in new_head}
    _compare_tensors(where, wanted, taken, our_config, theirs, ours)
    _compare_settings(where, model, ours, theirs)
    return Start(
        folder=folder,
        sha256=sha256_of(folder / WEIGHTS_FILE),
        tensors=tuple(sorted(taken)),
        left_out=tuple(sorted(left_out)),
        new_head=tuple(sorted({_top(name) for name in new_head})),
        trained_on=trained_on,
    )


def take_start(adapted: PeftModel, start: Start) -> None:
    """Load the file's tensors into the adapter, cast to its dtype, and verify them.

    Raises:
        UserError: The file has changed since it was validated.
        RunFailure: A tensor was not loaded.
    """
    file = start.folder / WEIGHTS_FILE
    tensors = read_tensors(file)
    if sha256_of(file) != start.sha256 or not tensors.keys() >= {*start.tensors}:
        raise UserError(f"{KEY}={start.folder}: {file.name} changed while this run was starting")
    given = {name: tensors[name] for name in start.tensors}
    with quiet_peft():
        # PEFT requires all of modules_to_save, the new head too.
        peft.set_peft_model_state_dict(adapted, adapter_state(adapted) | given)
    loaded = adapter_state(adapted)
    lost = [
        name
        for name, tensor in given.items()
        if not torch.equal(loaded[name].detach().cpu(), tensor.to(loaded[name].dtype))
    ]
    if lost:
        raise RunFailure(f"{file}: {min(lost)} and {len(lost) - 1} more were not loaded")


def validate_own_init(settings: Mapping[str, Any]) -> None:
    """Refuse an initialisation setting together with ``start_from``.

    Raises:
        UserError: Names the setting.
    """
    defaults, _ = adapter_defaults(str(settings["name"]))

    def visit(given: Mapping[str, Any], known: Mapping[str, Any], prefix: str) -> None:
        for key, value in given.items():
            default = known.get(key)
            if isinstance(value, Mapping):
                visit(value, default if isinstance(default, Mapping) else {}, f"{prefix}{key}.")
            elif _is_start(key, value) and value != default:
                undo = f"leave {prefix}{key} out" if default is None else f"{prefix}{key}={default}"
                raise UserError(
                    f"{prefix}{key}={shown(value).strip(chr(39))} and {KEY} both initialise the "
                    f"adapter; {undo}, or {KEY}=null"
                )

    visit(settings, defaults, "adapter.")


def _peft_config(folder: Path) -> PeftConfig:
    """The file's config; settings unknown to this version of PEFT must be off.

    Raises:
        UserError: An unknown setting is on, or the config is invalid.
    """
    values, file = read_adapter_config(folder), folder / CONFIG_FILE
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[values["peft_type"]]
    known = {entry.name for entry in fields(kind)}
    unknown = sorted(key for key in values.keys() - known if not _is_off(values[key]))
    if unknown:
        raise UserError(f"{file}: {unknown[0]}={values[unknown[0]]!r} is not known to this PEFT")
    with peft_errors(str(file)):
        return kind(**{key: value for key, value in values.items() if key in known})


def _method(config: PeftConfig) -> str:
    name = str(getattr(config.peft_type, "value", config.peft_type))
    return "DoRA" if name == "LORA" and config.use_dora else {"LORA": "LoRA"}.get(name, name)


def _validate_base_unchanged(config: PeftConfig, where: str) -> None:
    start = getattr(config, "init_lora_weights", None)
    if start not in LEFT_THE_BASE:
        raise UserError(
            f"{where}: it was trained with init_lora_weights={start!r}, for which PEFT changed the "
            "base weights, so its tensors do not fit the original ones; save it again with PEFT "
            "and path_initial_model_for_weight_conversion"
        )


def _top(name: str) -> str:
    """The outermost module of a tensor's name: ``classifier``."""
    return name.removeprefix(MODEL).partition(".")[0]


def _heads(
    ours: PeftModel,
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
    *,
    same_task: bool,
) -> tuple[set[str], set[str]]:
    """The tensors of this run's head to keep, and those of the file's head to ignore."""
    model = ours.base_model.model
    backbone = getattr(model, "base_model_prefix", "")
    prefixes = adapter_prefixes(ours)

    def on_head(names: Iterable[str]) -> set[str]:
        return {
            name
            for name in names
            if name.startswith(MODEL)  # not so the tensors that layers share
            and _top(name) != backbone
            and not any(part.startswith(prefixes) for part in name.split("."))
        }

    if ours.peft_config["default"].task_type == "SEQ_CLS":
        return (set(), set()) if same_task else (on_head(expected), on_head(found))
    # A causal language model has no task head: modules that it does not have belong to one.
    children = {name for name, _ in model.named_children()}
    return set(), {name for name in on_head(found) if _top(name) not in children}


def _compare_tensors(
    where: str,
    wanted: Mapping[str, tuple[int, ...]],
    taken: Mapping[str, tuple[int, ...]],
    our_config: PeftConfig,
    theirs: PeftConfig,
    ours: PeftModel,
) -> None:
    """Compare names and shapes; where the rank explains a different shape, name the rank."""
    mismatched = sorted(
        name for name in wanted.keys() & taken.keys() if wanted[name] != taken[name]
    )
    for key in RANKS if mismatched else ():
        rank, our_rank = getattr(theirs, key, None), getattr(our_config, key, None)
        if not _same(rank, our_rank):
            raise UserError(
                f"{where}: its rank is {key}={rank}, but this run's is {key}={our_rank}; use the "
                "same rank"
            )
    prefixes = adapter_prefixes(ours)
    for names, verb, other in (
        (taken.keys() - wanted.keys(), "adapts", "does not"),
        (wanted.keys() - taken.keys(), "does not adapt", "does"),
    ):
        modules = sorted({module for name in names if (module := _adapted(name, prefixes))})
        if modules:
            raise UserError(
                f"{where}: its target modules differ: it {verb} {_few(modules)}, but this run "
                f"{other}; set adapter.target_modules to match"
            )
    for names, verb in (
        (taken.keys() - wanted.keys(), "has unexpected"),
        (wanted.keys() - taken.keys(), "lacks"),
    ):
        if names:
            raise UserError(f"{where}: {WEIGHTS_FILE} {verb} {_few(sorted(names))}")
    if mismatched:
        name = mismatched[0]
        raise UserError(
            f"{where}: {name} has shape {taken[name]}, but {wanted[name]} in this run; it was "
            f"trained on {theirs.base_model_name_or_path or 'an unnamed base model'}"
        )


def _compare_settings(where: str, model: nn.Module, ours: PeftModel, theirs: PeftConfig) -> None:
    """Compare each module's scaling, then every other setting that changes the function."""
    our_config = ours.peft_config["default"]
    scalings, their_scalings = _scalings(ours), _scalings(_on_model(model, theirs, our_config))
    for name, scaling in scalings.items():
        other = their_scalings.get(name, math.nan)
        if not math.isclose(scaling, other, rel_tol=1e-6):
            raise UserError(
                f"{where}: its update in {name} is scaled by {other:.6g}, this run's by "
                f"{scaling:.6g}; set adapter.alpha, adapter.alpha_pattern or adapter.use_rslora so "
                "that they agree"
            )
    values, our_values = _flat(theirs.to_dict()), _flat(our_config.to_dict())
    for key in sorted(values.keys() | our_values.keys()):
        value, our_value = values.get(key), our_values.get(key)
        group, _, last = key.partition(".")
        if (
            group in TEXTUAL
            or (group in IN_SCALING and scalings)
            or any(word in group for word in ONLY_IN_TRAINING)
            or _is_start(last or group, value)
        ):
            continue
        if not _same(value, our_value):
            raise UserError(
                f"{where}: it was trained with {key}={_plain(value)}, but this run has "
                f"{key}={_plain(our_value)}; use the same value"
            )


def _is_start(key: str, value: object) -> bool:
    """Whether a setting is an initialisation; in MiSS, a string ``init_weights`` is a variant."""
    return key.startswith("init") and not (key == "init_weights" and isinstance(value, str))


def _on_model(model: nn.Module, theirs: PeftConfig, our_config: PeftConfig) -> PeftModel:
    """The file's config attached by PEFT to a model without weights, for its scalings."""
    theirs.task_type, theirs.inference_mode = our_config.task_type, False
    if hasattr(theirs, "modules_to_save"):
        theirs.modules_to_save = our_config.modules_to_save
    if hasattr(theirs, "init_lora_weights"):
        theirs.init_lora_weights = True
    ties = bool(resized_modules(model))
    with peft_errors(KEY), quiet_peft(ties=ties), torch.random.fork_rng(devices=[]):
        return peft.get_peft_model(without_weights(model), theirs, autocast_adapter_dtype=False)


def _scalings(model: PeftModel) -> dict[str, float]:
    """The scaling in each adapted module, for methods that have one."""
    return {
        name.removeprefix(MODEL): float(layer.scaling["default"])
        for name, layer in model.named_modules()
        if isinstance(getattr(layer, "scaling", None), Mapping) and "default" in layer.scaling
    }


def _adapted(name: str, prefixes: tuple[str, ...]) -> str | None:
    """The module that an adapter tensor belongs to; None for other tensors."""
    parts = name.removeprefix(MODEL).split(".")
    for index, part in enumerate(parts):
        if part.startswith(prefixes):
            return ".".join(parts[:index]) or None
    return None


def _few(names: list[str], limit: int = 3) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with nested groups, such as TopLoRA's gate, as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = value.items() if isinstance(value, Mapping) else ()
        flat |= {f"{key}.{name}": entry for name, entry in inner} or {key: value}
    return flat


def _is_off(value: object) -> bool:
    return value is None or value is False or value in ([], {}, "")


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set | frozenset) else value


def _same(first: object, second: object) -> bool:
    """Whether two settings are equivalent: a tuple and a list, or any two that are off."""
    if _is_off(first) and _is_off(second):
        return True
    first, second = (
        list(value) if isinstance(value, tuple) else _plain(value) for value in (first, second)
    )
    return first == second
