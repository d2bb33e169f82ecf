"""Any other method of PEFT that adapts weights: ``adapter=peft adapter.peft_type=VERA``.

``adapter.settings`` contains the method's own settings, named as in its PEFT config and validated
against that config's fields and types. Omitted settings, target modules included, have PEFT's
defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

import peft
from peft import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PeftConfig,
    PromptLearningConfig,
)
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from toplora_train.adapters.checks import check_keys, check_positive_integer
from toplora_train.adapters.configs import AdapterConfig
from toplora_train.adapters.stored_config import UNSUPPORTED as UNSUPPORTED_SETTINGS
from toplora_train.config.errors import UserError
from toplora_train.config.suggest import hint, nearest_key, nearest_name

TARGETS_BY_PEFT = True

UNMERGEABLE = ("LILY",)

UNSUPPORTED = {
    "ADALORA": "its ranks are reallocated after every step, which the training loop does not do",
    "ADAMSS": "it decomposes the base weights when it is attached, but it is first attached before "
    "they are loaded, to validate its settings",
    "ADAPTION_PROMPT": "it adds to the prompt and adapts no weights",
    "POLY": "every row must name its task, and the rows here do not",
    "SHADOW": "the parameters of its last layer get no gradient",
    "XLORA": "it mixes adapters that were trained before",
}
UNSUPPORTED["FROD"] = UNSUPPORTED["ADAMSS"]

SHARED = ("r", "dropout", "target_modules", "layers_to_transform", "modules_to_save", "bias")
"""Settings of every method of PEFT that has an adapter group of its own."""

LORA_INITS = (True, "gaussian", "orthogonal")
"""Initialisations of LoRA that do not change the base weights, so that the adapter reloads."""


def peft_methods() -> dict[str, type[PeftConfig]]:
    """The supported methods and their configs, by name."""
    return {
        str(name.value): config
        for name, config in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items())
        if name.value not in UNSUPPORTED
        and not issubclass(config, PromptLearningConfig | AdapterConfig)
    }


def peft_config(settings: Mapping[str, Any]) -> PeftConfig:
    """The PEFT config for the keys of ``conf/adapter/peft.yaml``.

    Raises:
        UserError: The method is missing or unknown, or has no such setting.
        TypeError, ValueError: An invalid value; the message starts with its key.
    """
    check_keys(settings, ("peft_type", "settings"))
    name = _method_name(settings.get("peft_type"))
    config = peft_methods()[name]
    own = settings.get("settings") or {}
    if not isinstance(own, Mapping):
        raise TypeError(f"settings must be a group of keys, not {own!r}")
    _validate_keys(own, name, config)
    declared = get_type_hints(config)
    for key, value in own.items():
        _validate_type(f"settings.{key}", value, declared[key])
    if own.get("r") is not None:
        check_positive_integer("settings.r", own["r"])  # not all methods check it
    if name == "LORA":
        _validate_lora_init(own.get("init_lora_weights", True))
    try:
        return config(**own)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"settings do not make a {name}: {error}") from error


def named_config(
    name: str, settings: Mapping[str, Any], renamed: Mapping[str, str], own: tuple[str, ...]
) -> PeftConfig:
    """The config of a method of PEFT that has an adapter group of its own.

    Args:
        name: The method in PEFT, for example ``GRALORA``.
        settings: The adapter's settings.
        renamed: PEFT's names of settings that have another here.
        own: The adapter's settings besides :data:`SHARED`.

    Raises:
        TypeError, ValueError: An invalid value; the message starts with its key.
    """
    config = peft_methods().get(name)
    if config is None:
        raise ValueError(f"PEFT {peft.__version__} has no {name}; upgrade it")
    check_keys(settings, (*SHARED, *own))
    fields_of = {key: renamed.get(key, key) for key in settings}
    declared = get_type_hints(config)
    for key, value in settings.items():
        _validate_type(key, value, declared[fields_of[key]])
    check_positive_integer("r", settings.get("r", 1))
    return config(**{fields_of[key]: value for key, value in settings.items()})


def setting_names(config: type[PeftConfig]) -> list[str]:
    """The method's own settings, without PEFT's internal fields."""
    bookkeeping = {entry.name for entry in fields(PeftConfig)}
    return sorted(entry.name for entry in fields(config) if entry.name not in bookkeeping)


def _method_name(value: object) -> str:
    """The method's name as PEFT spells it.

    Raises:
        UserError: There is no such method, or it is not supported.
    """
    methods = peft_methods()
    if value is None:
        raise UserError(f"adapter.peft_type is not set; PEFT's methods: {', '.join(methods)}")
    name = str(value).upper()
    if name in methods:
        return name
    known = {str(member.value): config for member, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if name in UNSUPPORTED:
        raise UserError(f"adapter.peft_type={name} is not supported: {UNSUPPORTED[name]}")
    if name in known and issubclass(known[name], AdapterConfig):
        raise UserError(f"adapter.peft_type={name} has its own group: use adapter={name.lower()}")
    if name in known:
        raise UserError(
            f"adapter.peft_type={name} is not supported: it learns a prompt and adapts no weights"
        )
    raise UserError(
        f"adapter.peft_type is '{value}', which is not a method of PEFT"
        f"{hint(nearest_name(name, list(methods)))} PEFT's methods: {', '.join(methods)}"
    )


def _validate_keys(own: Mapping[str, Any], name: str, config: type[PeftConfig]) -> None:
    prefix = "adapter.settings."
    known = setting_names(config)
    for key in own:
        if key not in known:
            guess = nearest_key(f"{prefix}{key}", [f"{prefix}{setting}" for setting in known])
            raise UserError(
                f"unknown key '{prefix}{key}'{hint(guess)} {name} takes: {', '.join(known)}"
            )
        if own[key] and key in UNSUPPORTED_SETTINGS:
            raise UserError(
                f"{prefix}{key} is not supported (it {UNSUPPORTED_SETTINGS[key]}); leave it out"
            )


def _validate_type(key: str, value: object, declared: Any) -> None:
    """Validate a value against the type that the config declares."""
    try:
        check = TypeAdapter(declared, config=ConfigDict(strict=True))
    except PydanticSchemaGenerationError:  # a type of PEFT's own, which its config validates
        return
    try:
        check.validate_python(value)
    except ValidationError as error:
        raise TypeError(f"{key} must be {_readable(declared)}, not {value!r}") from error


def _readable(declared: Any) -> str:
    name = declared.__name__ if isinstance(declared, type) else str(declared)
    return name.replace("typing.", "")


def _validate_lora_init(init: object) -> None:
    if init not in LORA_INITS:
        raise ValueError(
            f"settings.init_lora_weights must be true, gaussian or orthogonal, not {init!r}: the "
            "others change the base weights, need data, or start from a non-zero update"
        )
