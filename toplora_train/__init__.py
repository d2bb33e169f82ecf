"""Low-rank fine-tuning that can be trusted.

Importing the package registers its methods with PEFT, so that afterwards
``PeftModel.from_pretrained`` reads their adapters; torch is imported only when PEFT is. The classes
of a method are found by their names: ``toplora_train.TopLoraConfig``.
"""

from __future__ import annotations

import importlib
from typing import Any

from toplora_train.registration import register_with_peft

__version__ = "0.1.0"

register_with_peft()


def __getattr__(name: str) -> Any:
    """``TopLoraConfig`` is ``adapters.toplora.TopLoraConfig``, and so for every method."""
    for kind in ("Config", "Linear", "Model"):
        method = name.removesuffix(kind).lower()
        if name.endswith(kind) and method:
            try:
                module = importlib.import_module(f"toplora_train.adapters.{method}")
                return getattr(module, name)
            except (ModuleNotFoundError, AttributeError):
                break
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
