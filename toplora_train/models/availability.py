"""Whether a base model is available locally, without network access; for plans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import constants

from toplora_train.models.folder import holds_tokenizer
from toplora_train.models.known import known_model
from toplora_train.models.locate import ModelLocation, in_hub_cache, is_complete, locate_model
from toplora_train.models.packaged import packaged_checkpoint


@dataclass(frozen=True)
class ModelState:
    """Where a base model is, or would be downloaded from.

    Attributes:
        model: The hub id, the folder, or the name of the built-in model.
        state: ``local`` (a folder, a package, or built in), ``cached``, or ``to_fetch``.
        place: Its folder; None if it has to be downloaded.
        url: Its page on the hub; None if it is not from the hub.
        size: Bytes of its weights, if known.
        licence: The hub's licence tag, if known.
        gated: Whether the hub requires accepting the licence; None if unknown.
        location: The model to plan with, with at least a ``config.json``; None if not even that is
            available.
        tokenizer: Whether the tokenizer is available.
    """

    model: str
    state: Literal["local", "cached", "to_fetch"]
    place: str | None = None
    url: str | None = None
    size: int | None = None
    licence: str | None = None
    gated: bool | None = None
    location: ModelLocation | None = None
    tokenizer: bool = False


def model_state(
    *, path: str | None, revision: str | None, package: str | None, builtin: str | None
) -> ModelState:
    """Look for the model on this machine.

    Args:
        path: A hub id or a folder.
        revision: A branch, tag or commit on the hub.
        package: A Python package that contains the same weights.
        builtin: The name of a built-in model.

    Raises:
        UserError: ``path`` is neither a folder with a model nor a well-formed hub id.
    """
    if builtin is not None or path is None or not _is_hub_id(path):
        found = locate_model(path=path, revision=revision, package=package, builtin=builtin)
        place = "made in code" if found.folder is None else str(found.folder)
        return ModelState(found.name, "local", place, location=found, tokenizer=True)
    facts = known_model(path)
    licence, gated, size = (
        (facts.licence, facts.gated, facts.size) if facts is not None else (None, None, None)
    )
    state: Literal["local", "cached", "to_fetch"] = "to_fetch"
    location = in_hub_cache(path, revision)
    if location is not None and is_complete(location):
        state = "cached"
    elif package is not None and revision is None and (packaged := packaged_checkpoint(package)):
        state, location = "local", ModelLocation(path, *packaged)
    folder = None if location is None else location.folder
    return ModelState(
        path,
        state,
        place=None if state == "to_fetch" else str(folder),
        url=f"{constants.ENDPOINT}/{path}",
        size=size,
        licence=licence,
        gated=gated,
        location=location,
        tokenizer=folder is not None and holds_tokenizer(folder),
    )


def _is_hub_id(path: str) -> bool:
    """Whether :func:`locate_model` would treat it as a hub id."""
    return (
        not Path(path).expanduser().is_dir()
        and not path.startswith((".", "/", "~"))
        and path.count("/") == 1
    )
