"""Low-rank fine-tuning that can be trusted.

Importing the package registers its methods with PEFT, so that ``PeftModel.from_pretrained`` reads
their adapters. It imports neither torch nor PEFT: what it exports is imported on first access.

Imported before torch has made its first tensor, it also has torch request huge pages
for large tensors on a CPU: a step of SmolLM2-135M has a quarter of the page faults and takes 13 %
less memory (docs/running.md).
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

import toplora_train.train as _loop
from toplora_train.registration import register_with_peft

if TYPE_CHECKING:
    from toplora_train.adapters.genlora import GenLoraConfig, GenLoraLinear, GenLoraModel
    from toplora_train.adapters.orthogonal import (
        OrthogonalConfig,
        OrthogonalLinear,
        OrthogonalModel,
    )
    from toplora_train.adapters.sbora import SboraConfig, SboraLinear, SboraModel
    from toplora_train.adapters.tenslora import TensLoraConfig, TensLoraLinear, TensLoraModel
    from toplora_train.adapters.toplora import TopLoraConfig, TopLoraLinear, TopLoraModel
    from toplora_train.api import Run, RunFailure, UserError, compare, evaluate, load, train

__version__ = "0.1.0"

__all__ = [
    "GenLoraConfig",
    "GenLoraLinear",
    "GenLoraModel",
    "OrthogonalConfig",
    "OrthogonalLinear",
    "OrthogonalModel",
    "Run",
    "RunFailure",
    "SboraConfig",
    "SboraLinear",
    "SboraModel",
    "TensLoraConfig",
    "TensLoraLinear",
    "TensLoraModel",
    "TopLoraConfig",
    "TopLoraLinear",
    "TopLoraModel",
    "UserError",
    "compare",
    "evaluate",
    "load",
    "train",
]

register_with_peft()

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if not TYPE_CHECKING:  # to a type checker, this function would make every name an attribute

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        method = name.removesuffix("Config").removesuffix("Linear").removesuffix("Model").lower()
        module = "api" if method == name.lower() else f"adapters.{method}"
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

    class _CallableModule(ModuleType):
        """The package of the training loop has the name of the function, so it is both."""

        def __call__(self, **settings: Any) -> Run:
            return importlib.import_module("toplora_train.api").train(**settings)

    _loop.__class__ = _CallableModule
