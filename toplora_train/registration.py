"""Register the package's methods with PEFT: now if PEFT has been imported, otherwise on its import.

Importing PEFT here would be simpler, but it imports torch: on two cores ``import peft`` takes 9 s
and ``import toplora_train`` 0.1 s, and the command line must show its help quickly. PEFT has no
entry points for third-party methods. So a finder at the front of ``sys.meta_path`` locates ``peft``
with the other finders and registers the methods after the module has been executed.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType


def register_methods() -> None:
    """Import every module of :mod:`toplora_train.adapters`; each method registers itself."""
    adapters = importlib.import_module("toplora_train.adapters")
    for module in pkgutil.iter_modules(adapters.__path__, prefix="toplora_train.adapters."):
        importlib.import_module(module.name)


def register_with_peft() -> None:
    """Register now or when PEFT is imported; repeated calls do nothing."""
    if sys.modules.get("peft") is not None:
        register_methods()
    elif not any(isinstance(finder, _PeftFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PeftFinder())


class _PeftFinder(importlib.abc.MetaPathFinder):
    """Finds ``peft`` and registers the methods after its import, not on ``find_spec`` alone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the other finders' spec for ``peft``; None for any other module."""
        if fullname != "peft":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        specs = (
            finder.find_spec(fullname, path, target)
            for finder in others
            if hasattr(finder, "find_spec")
        )
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    register_methods()

            # Patched on the instance, so that the loader still serves sources and data files.
            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
