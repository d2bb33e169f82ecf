"""``adapter.start_from``: locate and describe the adapter that a run starts from."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from torch import nn

from toplora_train.adapters.saving import CONFIG_FILE, WEIGHTS_FILE, adapter_folder
from toplora_train.adapters.start_from import KEY, Start, check_start
from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_of, head_task
from toplora_train.config.resolved import read_config
from toplora_train.config.schema import RunConfig

HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class StartFrom:
    """The adapter that a run starts from, and the run's base model.

    Attributes:
        path: The folder, or the hub id.
        revision: The hub's commit; None for a folder.
        file: The adapter's file, checked against the run's adapter.
        base: The run's base model.
    """

    path: str
    revision: str | None
    file: Start
    base: str

    def __str__(self) -> str:
        commit = f" at commit {self.revision}" if self.revision else ""
        text = (
            f"The adapter starts from {self.path}{commit} ({WEIGHTS_FILE}, SHA-256 "
            f"{self.file.sha256})."
        )
        if self.file.new_head:
            left = (
                "that adapter's head is for another task and left out"
                if self.file.left_out
                else "that adapter has no head"
            )
            text += f" The head ({', '.join(self.file.new_head)}) is new: {left}."
        elif self.file.left_out:
            text += (
                f" Its head is left out ({len(self.file.left_out)} tensors): this is a language "
                "model."
            )
        if self.file.trained_on not in (None, self.base):
            text += f" It was trained on {self.file.trained_on}; this run's base is {self.base}."
        return text

    def to_dict(self) -> dict[str, Any]:
        """The start as the report records it."""
        return {
            "path": self.path,
            "revision": self.revision,
            "sha256": self.file.sha256,
            "tensors": len(self.file.tensors),
            "left_out": list(self.file.left_out),
            "new_head": list(self.file.new_head),
            "trained_on": self.file.trained_on,
        }


def find_start(config: RunConfig, model: nn.Module) -> StartFrom | None:
    """The configured start, checked against the run's adapter; None if there is none.

    Args:
        config: The run, its budget already a rank.
        model: Its base model with the head; weights are not needed, and it is not changed.

    Raises:
        UserError: There is no such adapter, or the run's adapter cannot start from it.
    """
    setting = config.adapter.get("start_from")
    if setting is None:
        return None
    folder, path, revision = locate_adapter(str(setting))
    start = check_start(
        model, config.adapter, folder, same_task=has_head_of_same_task(config, folder)
    )
    base = str(getattr(model, "name_or_path", ""))
    return StartFrom(path, revision, start, base)


def locate_adapter(setting: str) -> tuple[Path, str, str | None]:
    """The folder of an adapter, its name, and the hub's commit.

    Args:
        setting: A run, a folder in PEFT's format, or ``owner/name`` or ``owner/name@revision``.

    Raises:
        UserError: There is no adapter.
    """
    folder = Path(setting).expanduser()
    if folder.is_dir():
        found = adapter_folder(folder, KEY)
        return found, str(found), None
    hub = HUB_ID.fullmatch(setting)
    if hub is None or setting.startswith((".", "/", "~")):
        raise UserError(f"{KEY}={setting} is neither a folder nor a hub id of the form owner/name")
    return _from_hub(hub[1], hub[2])


def _from_hub(name: str, revision: str | None) -> tuple[Path, str, str | None]:
    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE])
        )
    except (HfHubHTTPError, OSError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
        why = (
            "it is not in the hub's cache and HF_HUB_OFFLINE is set"
            if offline
            else (str(error).strip().splitlines() or [type(error).__name__])[0]
        )
        raise UserError(
            f"{KEY}={name}: there is no such folder, and the adapter could not be downloaded from "
            f"the hub ({why}); give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from error
    return folder, name, folder.name


def has_head_of_same_task(config: RunConfig, folder: Path) -> bool:
    """Whether an adapter comes from a run with the same task and classes.

    PEFT's folders do not name a head's classes, so the head of any other folder is not used.
    """
    ours = head_task(config)
    if ours is None or not (folder.parent / "config.yaml").is_file() or folder.name != "adapter":
        return False
    try:
        theirs = head_task(read_config(folder.parent / "config.yaml"))
    except UserError:  # written by another version, so its head is unknown
        return False
    return theirs is not None and (theirs.name, head_of(theirs)) == (ours.name, head_of(ours))
