"""Python modules of one's own: a method, an optimizer, a metric, without a fork of the package.

``FOLDER/GROUP/NAME.py`` beside the user's option file ``FOLDER/GROUP/NAME.yaml`` is imported where
``GROUP=NAME`` is chosen, in every process of the run; so is the module of an entry point (see
:mod:`toplora_train.config.locate`). The option's settings say what is chosen, by their ``name``, so
that a variant of a file (``defaults: [NAME]``) has its module too.

A run records the names of these modules and their digests, and nothing is ever imported because a
run or an adapter names it: who evaluates one gives the folder again.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from toplora_train.config.errors import UserError, one_line
from toplora_train.config.locate import GROUPS_WITH_MODULES, OptionFile, options, readable

Named = TypeVar("Named")
_LOADED: dict[str, tuple[ModuleType, str]] = {}
"""``GROUP/NAME`` -> the module of this process and its digest."""


def find_plugins(values: Mapping[str, Any], own: Sequence[Path]) -> dict[str, str]:
    """``GROUP/NAME`` of every chosen option that has a module, and the SHA-256 of its file."""
    chosen = [(group, values.get(group)) for group in GROUPS_WITH_MODULES if group != "task"]
    named = [(group, one.get("name")) for group, one in chosen if isinstance(one, Mapping)]
    named += [("task", name) for name in values.get("task") or ()]
    return {f"{group}/{name}": _digest(file) for group, name, file in _files(named, own)}


def load_plugins(wanted: Mapping[str, str], own: Iterable[str | Path]) -> None:
    """Import the modules of a run, which register what they define.

    Args:
        wanted: What :func:`find_plugins` found, for a new run or as a run recorded it.
        own: The user's folders, given by the user and not by the run.

    Raises:
        UserError: A module is not in these folders or installed, or its import fails.
    """
    folders = [Path(folder) for folder in own]
    for key, recorded in wanted.items():
        group, _, name = key.partition("/")
        found = list(_files([(group, name)], folders)) if group in GROUPS_WITH_MODULES else []
        if not found:
            raise UserError(
                f"the run uses a module of its author's own, {key}.py, and nothing is imported "
                f"from a run: give config_dir=FOLDER, your copy of the folder with {key}.py and "
                f"{key}.yaml, or install the package that has it"
            )
        file, option = found[0][2], options(group, folders)[name]
        digest = _digest(file)
        if recorded != digest:
            warnings.warn(
                f"{readable(file)} is not the module that the run used (SHA-256 {digest[:12]}, "
                f"then {recorded[:12]})",
                stacklevel=2,
            )
        if key not in _LOADED:
            _LOADED[key] = (_import(option, file), digest)
        elif _LOADED[key][1] != digest:
            raise UserError(f"{readable(file)} has changed since it was imported; restart Python")


def needed_to_use(recorded: Mapping[str, str]) -> dict[str, str]:
    """The modules of a run that its evaluation or export needs: not the optimizer's."""
    return {key: value for key, value in recorded.items() if not key.startswith("optimizer/")}


def plugin(group: str, name: str) -> ModuleType | None:
    """The module of an option, if it has been imported."""
    key = f"{group}/{name}"
    return _LOADED[key][0] if key in _LOADED else None


class Registry(dict[str, Named]):
    """A table to which a task's module of the user's own may add entries, but replace none.

    The names of runs would else stand for other code than in the runs that they are compared with.
    """

    def __setitem__(self, name: str, value: Named) -> None:
        if name in self:
            raise UserError(f"the name '{name}' is taken; add it under another one")
        super().__setitem__(name, value)

    def update(self, *given: Any, **more: Named) -> None:
        """Add entries, one by one."""
        for name, value in dict(*given, **more).items():
            self[name] = value

    def __ior__(self, given: Any) -> Registry[Named]:  # type: ignore[override,misc]
        self.update(given)
        return self


def registered(known: Mapping[str, Named], name: str, what: str) -> Named:
    """The entry of a table to which a task's module of the user's own may have added some.

    Raises:
        UserError: There is no such entry.
    """
    if name not in known:
        raise UserError(
            f"there is no {what} {name}; known: {', '.join(known)} (one of your own is known after "
            f"config_dir=FOLDER, if its task's module adds it to {what.upper()}S)"
        )
    return known[name]


def plugin_digests(group: str) -> dict[str, str]:
    """The modules of a group that have been imported, by name, with their digests."""
    return {
        key.partition("/")[2]: digest
        for key, (_, digest) in _LOADED.items()
        if key.startswith(f"{group}/")
    }


def _files(
    named: Iterable[tuple[str, Any]], own: Sequence[Path]
) -> Iterable[tuple[str, str, Path]]:
    for group, name in named:
        option = options(group, own).get(str(name))
        if option is not None and (file := option.path.with_suffix(".py")).is_file():
            yield group, str(name), file


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _import(option: OptionFile, file: Path) -> ModuleType:
    for module in list(sys.modules.values()):  # the user's own script may have imported it
        if getattr(module, "__file__", None) == str(file):
            return module
    name = option.module or f"toplora_{option.group}_{option.name}"
    try:
        if option.module is not None:
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        lines = [
            entry.lineno
            for entry in traceback.extract_tb(error.__traceback__)
            if entry.filename == str(file)
        ]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        where = f", line {line}" if line is not None else ""
        reason = one_line(error) if isinstance(error, UserError) else _named(error)
        raise UserError(f"{readable(file)}{where}: {reason}") from error
    return module


def _named(error: BaseException) -> str:
    return f"cannot be imported ({type(error).__name__}: {one_line(error)})"
