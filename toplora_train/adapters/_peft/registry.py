"""Registers this package's methods with PEFT."""

from __future__ import annotations

import peft
from peft import PeftModel, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING
from peft.utils import register_peft_method

from toplora_train.adapters._peft.model import AdapterModel
from toplora_train.adapters.configs import AdapterConfig
from toplora_train.config.errors import UserError


def register_method(
    name: str, config_cls: type[AdapterConfig], model_cls: type[AdapterModel]
) -> None:
    """Register a method with PEFT under ``name.upper()``; registering it again does nothing.

    Args:
        name: The method's name in lower case; its tensors' names start with ``name + "_"``.
        config_cls: The method's config class.
        model_cls: The method's tuner model class.

    Raises:
        UserError: Another method, such as one of PEFT's own, has this name or this prefix.
    """
    peft_type, prefix = name.upper(), f"{name}_"
    registered = PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type)
    if registered is not None and _qualified_name(registered) == _qualified_name(config_cls):
        return
    if peft_type in PeftType.__members__:
        owner = f"PEFT {peft.__version__}" if registered is None else _qualified_name(registered)
        taken = f"the name {peft_type} is taken by {owner}"
    elif prefix in PEFT_TYPE_TO_PREFIX_MAPPING.values():
        taken = (
            f"the tensor prefix '{prefix}' is taken by another method of PEFT {peft.__version__}"
        )
    else:
        _add_peft_type(peft_type)
        register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls)
        return
    raise UserError(
        f"{_qualified_name(config_cls)} cannot be registered with PEFT as '{name}': {taken}; "
        "choose another name"
    )


def _qualified_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _add_peft_type(name: str) -> None:
    """Add a member to PEFT's enumeration of methods, which has no public way to extend it.

    PEFT looks up a checkpoint's ``peft_type`` there. Like the built-in members, the new one
    pickles and copies by value. CPython 3.11 to 3.13 keep the same tables of members.
    """
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType.__members__)
    setattr(PeftType, name, member)  # before the tables: the enumeration guards known names
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    hashable_values = getattr(PeftType, "_hashable_values_", None)  # CPython 3.12.3 and later
    if hashable_values is not None:
        hashable_values.append(name)


def adapter_prefixes(model: PeftModel) -> tuple[str, ...]:
    """The prefixes of the model's adapter tensors, such as ``lora_``."""
    types = {config.peft_type for config in model.peft_config.values()}
    return tuple(PEFT_TYPE_TO_PREFIX_MAPPING[peft_type] for peft_type in sorted(types))
