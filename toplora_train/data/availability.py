"""Locate a data source: on this machine, in the cache, or on the network.

===========================================  ====================================================
``bundled:arithmetic/train.jsonl``           a file inside this package
``llm-adapters:dataset/boolq/test.json``     ``<data_root>/llm-adapters/dataset/boolq/test.json``,
                                             else the same path in the cache folder, else
                                             downloaded from LLM-Adapters' repository
``rows.jsonl``, ``folder``                   a local file (:mod:`toplora_train.data.files`), or a
                                             folder of them, of ``save_to_disk``, or of images
                                             per class (:mod:`toplora_train.data.images`)
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
from toplora_train.data.hub import Source, cached_set, hub_address, read_hub
from toplora_train.data.llm_adapters import REPOSITORY, address, known_files
from toplora_train.data.parts import without_part

BUNDLED = Path(__file__).parent / "bundled"
FORMS = (
    "bundled:FILE, llm-adapters:FILE, a local .jsonl, .json, .csv, .tsv or .parquet file, a folder "
    "of them, of save_to_disk or of images per class, or a hub id owner/name"
)
OFFLINE = "HF_HUB_OFFLINE"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SCHEME = re.compile(r"([a-z][a-z-]+):(.*)")


# Rows of the splits of the tasks' Hub datasets, by source and subset; GLUE's test splits have no
# labels.
ROWS: dict[tuple[str, str | None], dict[str, int]] = {
    ("nyu-mll/glue", "cola"): {"train": 8_551, "validation": 1_043},
    ("nyu-mll/glue", "mnli"): {
        "train": 392_702,
        "validation_matched": 9_815,
        "validation_mismatched": 9_832,
    },
    ("nyu-mll/glue", "mrpc"): {"train": 3_668, "validation": 408},
    ("nyu-mll/glue", "qnli"): {"train": 104_743, "validation": 5_463},
    ("nyu-mll/glue", "qqp"): {"train": 363_846, "validation": 40_430},
    ("nyu-mll/glue", "rte"): {"train": 2_490, "validation": 277},
    ("nyu-mll/glue", "sst2"): {"train": 67_349, "validation": 872},
    ("nyu-mll/glue", "stsb"): {"train": 5_749, "validation": 1_500},
    ("nyu-mll/glue", "wnli"): {"train": 635, "validation": 71},
    ("openai/gsm8k", "main"): {"train": 7_473, "test": 1_319},
}


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


def source_state(source: Source) -> SourceState:
    """Locate a source without network access.

    Returns:
        The state; ``unavailable`` means not local and not downloadable: a local path, an unknown
        file, or ``HF_HUB_OFFLINE`` is set.

    Raises:
        UserError: The source has none of the forms.
    """
    name = source.name
    prefix, whole = without_part(name)
    if prefix:
        return replace(source_state(replace(source, name=whole)), source=name, rows=None)
    scheme = _SCHEME.fullmatch(name)
    if scheme is not None and scheme[1] == "bundled":
        return _present(name, _bundled(scheme[2]))
    if scheme is not None and scheme[1] == "llm-adapters":
        return _llm_adapters(name, scheme[2], source.data_root)
    path = Path(name).expanduser().absolute()
    if path.exists():
        return _present(name, path)
    if HUB_ID.fullmatch(name) is None or is_file_name(path):
        if is_file_name(path) or name.startswith(("/", "~", ".")):
            return SourceState(name, "unavailable", path)
        raise UserError(f"{name}: no such file or folder; a source is {FORMS}")
    published = ROWS.get((name, source.subset), {}).get(source.split)
    if source.mirror is not None and source.mirror.is_dir():
        return replace(_present(name, source.mirror), rows=published)
    url = hub_address(name, source.revision)
    found = cached_set(source)
    if found is not None:
        return SourceState(name, "cached", found.folder, url, rows=found.rows or published)
    return SourceState(name, "unavailable" if offline() else "to_fetch", None, url, rows=published)


def fetch(source: Source) -> SourceState:
    """Download a source into the cache unless it is available locally.

    A downloaded file is verified by its git blob id on every use; a damaged one is replaced.

    Returns:
        The new state, ``local`` or ``cached``.

    Raises:
        UserError: It cannot be obtained; the message says where to put it.
    """
    source = replace(source, name=without_part(source.name)[1])
    state = source_state(source)
    if source.name.startswith("llm-adapters:") and state.state != "local":
        return _fetch_llm_adapters(state, source.data_root)
    if state.state == "to_fetch":
        read_hub(replace(source, data_root=None))
        return source_state(source)
    if state.state == "unavailable":
        if state.url is None:
            raise UserError(f"{source.name}: no such file or folder; a source is {FORMS}")
        raise UserError(
            f"{source.name}: not in the Hugging Face cache, and {OFFLINE} is set; unset it, or put "
            f"a copy in DATA_ROOT/hub/{source.name} and set data_root=DATA_ROOT"
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
