"""Finds the file that sets a key or chooses an option, for error messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from toplora_train.config.locate import OptionFile

PACKAGE_HEADER = "# @package "


def find_origin(key: str, files: Sequence[OptionFile]) -> Path | None:
    """The first of the files, ordered by decreasing precedence, that sets ``key``."""
    for file in files:
        inner = _inside(key, package_of(file))
        if inner is not None and _holds(OmegaConf.load(file.path), inner):
            return file.path
    return None


def find_choice(group: str, option: str, files: Sequence[OptionFile]) -> Path | None:
    """The first of the files whose defaults list chooses ``option`` of ``group``."""
    for file in files:
        for named, chosen in choices_of(OmegaConf.load(file.path)):
            if named == group and option in (chosen if isinstance(chosen, list) else [chosen]):
                return file.path
    return None


def choices_of(content: Any) -> list[tuple[str, Any]]:
    """The groups in a file's defaults list, each with the option or the options chosen."""
    defaults: Any = content.get("defaults") if isinstance(content, DictConfig) else None
    entries: Any = OmegaConf.to_container(defaults, resolve=False) if defaults else []
    return [
        (str(key).removeprefix("override ").strip(" /").partition("@")[0], chosen)
        for entry in entries
        if isinstance(entry, dict)
        for key, chosen in entry.items()
    ]


def package_of(file: OptionFile) -> str:
    """Where Hydra puts the file's content in the tree: its package header, or its group."""
    for line in file.path.read_text(encoding="utf-8").splitlines():
        if line.startswith(PACKAGE_HEADER):
            package = line.removeprefix(PACKAGE_HEADER).strip()
            return "" if package == "_global_" else package.removeprefix("_global_.")
        if line.strip() and not line.startswith("#"):
            break
    return file.group


def _inside(key: str, package: str) -> str | None:
    if not package or key == package == "recipe":  # without a header, all of its content
        return "" if package else key
    return key.removeprefix(package + ".") if key.startswith(package + ".") else None


def _holds(content: Any, key: str) -> bool:
    node = content
    for part in key.split(".") if key else ():
        if not isinstance(node, DictConfig) or part not in node:
            return False
        node = node._get_node(part)
    return True
