"""Locate a data source: on this machine, in the cache, or on the network.

===========================================  ====================================================
``bundled:arithmetic/train.jsonl``           a file inside this package
``llm-adapters:dataset/boolq/test.json``     ``<data_root>/llm-adapters/dataset/boolq/test.json``,
                                             else the same path in the cache folder, else
                                             downloaded from LLM-Adapters' repository
``rows.jsonl``, ``folder``                   a local file (:mod:`toplora_train.data.files`), or a
                                             folder of them or of ``save_to_disk``
``owner/name``                               ``<data_root>/hub/owner/name``, else the Hugging Face
                                             cache, else the Hugging Face Hub
===========================================  ====================================================
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from toplora_train.config.errors import UserError
from toplora_train.config.folders import cache_folder
from toplora_train.data.download import download, has_blob_id
from toplora_train.data.files import is_file_name
from toplora_train.data.hub import cached_set, hub_address, read_hub
from toplora_train.data.llm_adapters import REPOSITORY, address, known_files
from toplora_train.data.parts import without_part

BUNDLED = Path(__file__).parent / "bundled"
FORMS = (
    "bundled:FILE, llm-adapters:FILE, a local .jsonl, .json, .csv, .tsv or .parquet file, a folder "
    "of them or of save_to_disk, or a hub id owner/name"
)
OFFLINE = "HF_HUB_OFFLINE"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SCHEME = re.compile(r"([a-z][a-z-]+):(.*)")


@dataclass(frozen=True)
class SourceState:
    """The state of a source, found without reading it.

    ``place`` is the file or folder of the rows, also if not downloaded yet (None if the Hub's cache
    decides). ``url`` is the download address, ``size`` in bytes. None means unknown.
    """

    source: str
    state: Literal["local", "cached", "to_fetch", "unavailable"]
    place: Path | None
    url: str | None = None
    size: int | None = None
    rows: int | None = None
    licence: str | None = None


def source_state(
    source: str,
    *,
    data_root: Path | None,
    subset: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> SourceState:
    """Locate a source without network access.

    Args:
        source: One of the forms in the module's table; paths are relative to the working directory.
        data_root: A folder tried before the cache and the network.
        subset: A hub data set's configuration name.
        split: The split of a hub data set.
        revision: A hub data set's branch, tag or commit.

    Returns:
        The state; ``unavailable`` means not local and not downloadable: a local path, an unknown
        file, or ``HF_HUB_OFFLINE`` is set.

    Raises:
        UserError: The source has none of the forms.
    """
    prefix, whole = without_part(source)
    if prefix:
        state = source_state(
            whole, data_root=data_root, subset=subset, split=split, revision=revision
        )
        return replace(state, source=source, rows=None)
    scheme = _SCHEME.fullmatch(source)
    if scheme is not None and scheme[1] == "bundled":
        return _present(source, _bundled(scheme[2]))
    if scheme is not None and scheme[1] == "llm-adapters":
        return _llm_adapters(source, scheme[2], data_root)
    path = Path(source).expanduser().absolute()
    if path.exists():
        return _present(source, path)
    if HUB_ID.fullmatch(source) is None or is_file_name(path):
        if is_file_name(path) or source.startswith(("/", "~", ".")):
            return SourceState(source, "unavailable", path)
        raise UserError(f"{source}: no such file or folder; a source is {FORMS}")
    return _hub(source, data_root=data_root, subset=subset, split=split, revision=revision)


def fetch(
    source: str,
    *,
    data_root: Path | None,
    subset: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> SourceState:
    """Download a source into the cache unless it is available locally.

    A downloaded file is verified by its git blob id on every use; a damaged one is replaced.

    Returns:
        The new state, ``local`` or ``cached``.

    Raises:
        UserError: It cannot be obtained; the message says where to put it.
    """
    source = without_part(source)[1]
    where = {"data_root": data_root, "subset": subset, "split": split, "revision": revision}
    state = source_state(source, **where)  # type: ignore[arg-type]  # passed on unchanged
    if source.startswith("llm-adapters:") and state.state != "local":
        return _fetch_llm_adapters(state, data_root)
    if state.state == "to_fetch":
        read_hub(source, subset=subset, split=split, revision=revision, tried=None)
        return source_state(source, **where)  # type: ignore[arg-type]  # likewise
    if state.state == "unavailable":
        if state.url is None:
            raise UserError(f"{source}: no such file or folder; a source is {FORMS}")
        raise UserError(
            f"{source}: not in the Hugging Face cache, and {OFFLINE} is set; unset it, or put a "
            f"copy in DATA_ROOT/hub/{source} and set data_root=DATA_ROOT"
        )
    return state


def offline() -> bool:
    """Whether network access is disabled by ``HF_HUB_OFFLINE=1``."""
    return os.environ.get(OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE")


def _present(source: str, path: Path) -> SourceState:
    return SourceState(source, "local", path, size=path.stat().st_size if path.is_file() else None)


def _bundled(name: str) -> Path:
    path = BUNDLED / name
    if not path.is_file():
        known = sorted(
            f"bundled:{file.relative_to(BUNDLED).as_posix()}"
            for file in BUNDLED.rglob("*")
            if is_file_name(file)
        )
        raise UserError(f"bundled:{name}: no such file in this package; it has {', '.join(known)}")
    return path


def _llm_adapters(source: str, name: str, data_root: Path | None) -> SourceState:
    if data_root is not None:
        own = (data_root / "llm-adapters" / name).absolute()
        if own.exists():
            return _present(source, own)
    place = cache_folder() / "llm-adapters" / name
    known = known_files().get(name)
    if known is None:
        return SourceState(source, "unavailable", place)
    state = SourceState(
        source, "to_fetch", place, address(name), known.size, known.rows, known.licence
    )
    if place.is_file():
        return replace(state, state="cached", size=place.stat().st_size)
    return replace(state, state="unavailable") if offline() else state


def _fetch_llm_adapters(state: SourceState, data_root: Path | None) -> SourceState:
    name = state.source.partition(":")[2]
    known = known_files().get(name)
    assert state.place is not None
    own = (data_root or Path("FOLDER")) / "llm-adapters" / name
    set_root = "" if data_root else " and set data_root=FOLDER"
    if known is None:
        raise UserError(
            f"{state.source}: not a known file of {REPOSITORY}; correct the name, or put the file "
            f"at {own}{set_root}"
        )
    put = f"put the file at {state.place}, or at {own}{set_root}"
    if state.state == "cached" and has_blob_id(state.place, known.blob):
        return state
    if offline():
        problem = "damaged in the cache" if state.state == "cached" else "not available locally"
        raise UserError(
            f"{state.source}: {problem}, and {OFFLINE} is set; unset it, or download "
            f"{address(name)} elsewhere and {put}"
        )
    download(address(name), state.place, blob=known.blob, size=known.size, otherwise=put)
    return replace(state, state="cached", size=state.place.stat().st_size)


def _hub(
    source: str, *, data_root: Path | None, subset: str | None, split: str, revision: str | None
) -> SourceState:
    if data_root is not None:
        mirror = (data_root / "hub" / source).absolute()
        if mirror.is_dir():
            return _present(source, mirror)
    url = hub_address(source, revision)
    found = cached_set(source, subset=subset, split=split, revision=revision)
    if found is not None:
        return SourceState(source, "cached", found.folder, url, rows=found.rows)
    return SourceState(source, "unavailable" if offline() else "to_fetch", None, url)
