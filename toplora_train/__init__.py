"""Low-rank fine-tuning that can be trusted.

Importing the package registers its methods with PEFT, so that ``PeftModel.from_pretrained`` reads
their adapters. It imports neither torch nor PEFT: the classes below are imported on first access.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from toplora_train.registration import register_with_peft

if TYPE_CHECKING:
    from toplora_train.adapters.genlora import GenLoraConfig, GenLoraLinear, GenLoraModel
    from toplora_train.adapters.tenslora import TensLoraConfig, TensLoraLinear, TensLoraModel
    from toplora_train.adapters.toplora import TopLoraConfig, TopLoraLinear, TopLoraModel

__version__ = "0.1.0"

__all__ = [
    "GenLoraConfig",
    "GenLoraLinear",
    "GenLoraModel",
    "TensLoraConfig",
    "TensLoraLinear",
    "TensLoraModel",
    "TopLoraConfig",
    "TopLoraLinear",
    "TopLoraModel",
]

register_with_peft()

if not TYPE_CHECKING:  # to a type checker, this function would make every name an attribute

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        method = name.removesuffix("Config").removesuffix("Linear").removesuffix("Model").lower()
        return getattr(importlib.import_module(f"toplora_train.adapters.{method}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
