"""Finds option files and recipes: inside a wheel, beside the package, or from another package.

Another installed package adds options through entry points: ``NAME = "its.module"`` in the group
``toplora_train.adapters`` (or ``.optimizers``, ``.datasets``, ``.tasks``) is the option ``NAME``,
whose file ``NAME.yaml`` is beside the module.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent
LINE_LENGTH = 97  # of the option files' comments, without the "# "
GROUPS_WITH_MODULES = ("adapter", "optimizer", "dataset", "task")
"""The groups whose options may have a Python module, see :mod:`toplora_train.config.plugins`."""


@dataclass(frozen=True)
class OptionFile:
    """One option of a group: ``adapter/toplora`` is ``conf/adapter/toplora.yaml``.

    ``module`` is the dotted name of its module in another installed package, if it is from there.
    """

    group: str
    name: str
    path: Path
    module: str | None = None


def conf_dir() -> Path:
    """The folder with ``config.yaml`` and one folder per group."""
    return _first_with("config.yaml", PACKAGE / "_conf", PACKAGE.parent / "conf")


def recipes_dir() -> Path:
    """The folder of recipes, Hydra's group ``recipe``."""
    return _first_with("smoke.yaml", PACKAGE / "_recipes", PACKAGE.parent / "recipes")


def options(group: str, own: Iterable[Path] = ()) -> dict[str, OptionFile]:
    """The options of a group by name: the package's, other packages', then the user's own.

    Args:
        group: The group.
        own: The user's folders (``--config-dir``), with a folder for each group.
    """
    shipped = recipes_dir() if group == "recipe" else conf_dir() / group
    found = _in_folder(group, shipped)
    for more in (installed(group), *(_in_folder(group, folder / group) for folder in own)):
        found = {**more, **found}
    return found


def _in_folder(group: str, folder: Path) -> dict[str, OptionFile]:
    return {path.stem: OptionFile(group, path.stem, path) for path in sorted(folder.glob("*.yaml"))}


@cache
def installed(group: str) -> dict[str, OptionFile]:
    """The options that other installed packages add; their modules are not imported here."""
    found: dict[str, OptionFile] = {}
    if group not in GROUPS_WITH_MODULES:
        return found
    for point in sorted(_entry_points().select(group=f"toplora_train.{group}s")):
        path = _module_folder(point.value) / f"{point.name}.yaml"
        if path.is_file() and path.stem == point.value.rpartition(".")[2]:
            found[point.name] = OptionFile(group, point.name, path, point.value)
        else:
            warnings.warn(
                f"the entry point {point.name} = {point.value} is ignored: it must name a module "
                f"called {point.name} with {point.name}.yaml beside it",
                stacklevel=2,
            )
    return found


@cache
def _entry_points() -> Any:  # SelectableGroups in Python 3.11, EntryPoints since 3.12
    """Those of all installed packages: reading them takes 0.03 s."""
    return entry_points()


def _module_folder(name: str) -> Path:
    """The folder of a module, found without importing the packages that it is in."""
    top, *inner = name.split(".")
    spec = find_spec(top)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if inner:
        return Path(*places[:1], *inner[:-1])
    return Path(spec.origin).parent if spec is not None and spec.origin else Path(top)


def groups() -> list[str]:
    """The groups of a run's settings, the most important first; not those of Hydra itself."""
    order = ["recipe", "model", "dataset", "task", "adapter"]
    folders = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
    return order + [name for name in folders if name not in (*order, "hydra")]


def description(path: Path) -> str:
    """The first comment of an option file that is not a Hydra header, with its wrapped lines."""
    found: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or line.startswith(("#  ", "# @package")):
            text = ""  # an example, a header or a setting
        if found:
            full = len(found[-1]) + len(" ".join(text.split()[:1])) + 1 > LINE_LENGTH
            if not text or not full or found[-1].endswith("."):
                break
        if text:
            found.append(text)
    return " ".join(found)


def readable(path: Path) -> str:
    """The path as the user would type it, relative to the working folder if inside."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _first_with(name: str, *folders: Path) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder
    raise FileNotFoundError(f"the installation is broken: {name} is in none of {folders}")
