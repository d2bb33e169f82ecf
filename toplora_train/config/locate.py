"""Finds option files and recipes: inside a wheel, or beside the package in a checkout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
LINE_LENGTH = 97  # of the option files' comments, without the "# "


@dataclass(frozen=True)
class OptionFile:
    """One option of a group: ``adapter/toplora`` is ``conf/adapter/toplora.yaml``."""

    group: str
    name: str
    path: Path


def conf_dir() -> Path:
    """The folder with ``config.yaml`` and one folder per group."""
    return _first_with("config.yaml", PACKAGE / "_conf", PACKAGE.parent / "conf")


def recipes_dir() -> Path:
    """The folder of recipes, Hydra's group ``recipe``."""
    return _first_with("smoke.yaml", PACKAGE / "_recipes", PACKAGE.parent / "recipes")


def options(group: str, own: Iterable[Path] = ()) -> dict[str, OptionFile]:
    """The options of a group by name: the package's, then those in the user's ``--config-dir``."""
    shipped = recipes_dir() if group == "recipe" else conf_dir() / group
    folders = [shipped, *(folder / group for folder in own)]
    found: dict[str, OptionFile] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, OptionFile(group, path.stem, path))
    return found


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
