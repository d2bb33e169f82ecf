"""Registers the package's methods with PEFT, at once or as soon as PEFT is imported.

Importing PEFT imports torch, which takes seconds, and the command line has to answer in one. So
where PEFT is not there yet its import is watched: a finder in front of ``sys.meta_path`` finds
``peft`` as the other finders would, and lets the registration follow the module's execution.
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
    """Register now if PEFT has been imported, otherwise when it is. Any number of calls is one."""
    peft = sys.modules.get("peft")
    if peft is not None and not getattr(peft.__spec__, "_initializing", False):
        register_methods()
    elif not any(isinstance(finder, _PeftWatcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PeftWatcher())


class _PeftWatcher(importlib.abc.MetaPathFinder):
    """Finds ``peft`` through the other finders and has the registration follow its execution.

    Looking for the module without importing it (``importlib.util.find_spec("peft")``) is answered
    too, and changes nothing.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of ``peft``; None for every other module."""
        if fullname != "peft":
            if _is_initialised("peft"):  # it was half imported when this watcher was set up
                self._register()
            return None
        spec = _spec_from_the_others(self, fullname, path, target)
        if spec is not None and spec.loader is not None:
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: importlib.abc.Loader) -> None:
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            self._register()

        # On the instance, which stays what it is to all who ask it for sources or data.
        loader.exec_module = execute_and_register  # type: ignore[method-assign]  # see above

    def _register(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            register_methods()


def _is_initialised(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def _spec_from_the_others(
    watcher: _PeftWatcher, fullname: str, path: Sequence[str] | None, target: ModuleType | None
) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        find_spec = None if finder is watcher else getattr(finder, "find_spec", None)
        spec: importlib.machinery.ModuleSpec | None = (
            None if find_spec is None else find_spec(fullname, path, target)
        )
        if spec is not None:
            return spec
    return None
