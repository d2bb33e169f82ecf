"""Whether a base model is at hand, without a look at the network: what a plan says of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import constants, try_to_load_from_cache

from toplora_train.models.known import known_model
from toplora_train.models.locate import ModelLocation, locate_model
from toplora_train.models.packaged import packaged_checkpoint

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spm.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class ModelState:
    """Where a base model is, or where it would come from.

    Attributes:
        model: The hub id, the folder, or the name of a model made in code.
        state: ``local`` (a folder, a package, or code), ``cached``, or ``to_fetch``.
        place: Where it lies; None where it has to be fetched.
        url: Its page on the hub; None for what is not from there.
        size: Bytes of its weights, if known.
        licence: In the hub's word, if known.
        gated: Whether the hub wants the licence accepted first; None if that is not known.
        location: What can be planned with: its own ``config.json`` at least; None where not even
            that is at hand.
        tokenizer: Whether the tokenizer is at hand.
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
        revision: A branch, tag or commit of the hub.
        package: An installed package that carries the same weights.
        builtin: A model made in code.

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
    location = _in_cache(path, revision)
    if location is not None and location.folder is not None and holds_weights(location.folder):
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
        tokenizer=folder is not None and any((folder / name).is_file() for name in TOKENIZER_FILES),
    )


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds all weights of a checkpoint: of one in parts, each part."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return all((folder / part).is_file() for part in parts)
    return any(folder.glob("*.safetensors"))


def _is_hub_id(path: str) -> bool:
    """Whether :func:`locate_model` would look for it beyond this machine's folders."""
    return (
        not Path(path).expanduser().is_dir()
        and not path.startswith((".", "/", "~"))
        and path.count("/") == 1
    )


def _in_cache(path: str, revision: str | None) -> ModelLocation | None:
    """The model in the hub's cache, with or without its weights."""
    config = try_to_load_from_cache(path, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return ModelLocation(path, folder, folder.name)
