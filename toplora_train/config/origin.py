"""Finds the file that sets a key or chooses an option, for error messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

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
        content = OmegaConf.load(file.path)
        for entry in content.get("defaults", []) if isinstance(content, DictConfig) else []:
            for key, chosen in entry.items() if isinstance(entry, DictConfig) else []:
                named = str(key).removeprefix("override ").strip(" /").partition("@")[0]
                options = list(chosen) if isinstance(chosen, ListConfig) else [chosen]
                if named == group and option in options:
                    return file.path
    return None


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
