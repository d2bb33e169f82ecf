"""Token cache on disk, so that rows are encoded once and not in every run and process.

A file is named by a hash of everything its content depends on: rows, tokenizer, settings, library
versions and the source of this package's encoders. So there is no invalidation: a stale file is
never found. A file is the SHA-256 of the rest, followed by safetensors: all ids concatenated, with
columns for the examples' lengths and other fields.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import date
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
import tokenizers
import transformers
from safetensors import SafetensorError

from toplora_train.config.aside import remove_leftovers, temporary_folder, write_aside
from toplora_train.config.cache import LIMIT_VARIABLE, keep_within_limit, mark_used, tokens_limit
from toplora_train.data.overflow import AnExample, Encoded

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

FRESH, FOUND, REBUILT = "encoded now", "from the cache", "encoded now (cached file damaged)"
"""Where the tokens came from, as shown in reports."""

COUNTS = ("truncated_rows", "dropped_rows", "prompt_mismatches")
DIGEST = 32  # bytes of a SHA-256


def tokens_key(rows_sha256: str, tokenizer_sha256: str, settings: Mapping[str, Any]) -> str:
    """A digest of everything the tokens of a set of rows depend on.

    Args:
        rows_sha256: The digest of the rows.
        tokenizer_sha256: The digest of the tokenizer, see :func:`tokenizer_digest`.
        settings: The encoder's other settings, as plain values.
    """
    parts = [
        rows_sha256,
        tokenizer_sha256,
        dict(settings),
        [transformers.__version__, tokenizers.__version__],
        _source_digest(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of the files that the tokenizer is saved as; its path does not matter.

    Call it before using the tokenizer: some tokenizers save the last truncation settings. If the
    chat template inserts the current date, the digest changes every day.
    """
    digest = hashlib.sha256()
    if writes_the_date(tokenizer):
        digest.update(date.today().isoformat().encode())
    with temporary_folder() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def writes_the_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template inserts the current date (Llama 3.2's does)."""
    return "strftime_now" in str(tokenizer.chat_template)


def load_or_encode(
    path: Path,
    example: type[AnExample],
    encode: Callable[[], Encoded[AnExample]],
    *,
    vocabulary: int = 2**31,
) -> tuple[Encoded[AnExample], str]:
    """Load cached examples, or encode and cache them.

    A damaged file is detected by its checksum, or by ids outside the vocabulary, and rewritten. If
    the folder is not writable, a warning is logged and nothing is cached.

    Args:
        path: The file, named by :func:`tokens_key`.
        example: The class of the examples, a dataclass of ids and numbers.
        encode: Creates the examples.
        vocabulary: What every id is less than.

    Returns:
        The examples and where they came from: ``FOUND``, ``FRESH`` or ``REBUILT``.
    """
    found = _read(path, example, vocabulary)
    if found is not None:
        mark_used(path)
        return found, FOUND
    tokens_limit()  # validate the setting before spending time on encoding
    damaged = path.exists()
    if damaged:
        logger.warning("%s is damaged; encoding the rows again", path)
    encoded = encode()
    try:
        _write(path, encoded)
    except OSError as error:
        logger.warning("cannot cache tokens in %s (%s)", path.parent, error.strerror)
    return encoded, REBUILT if damaged else FRESH


def _read(path: Path, example: type[AnExample], vocabulary: int) -> Encoded[AnExample] | None:
    """The content of a file; None if it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
        return None
    try:
        columns = safetensors.numpy.load(content[DIGEST:])
        counts = dict(zip(COUNTS, columns["counts"].tolist(), strict=True))
        kept = tuple(columns["kept"].tolist())
        if np.any((columns["input_ids"] < 0) | (columns["input_ids"] >= vocabulary)):
            return None
        return Encoded(_examples(example, columns, len(kept)), kept, **counts)
    except (SafetensorError, LookupError, ValueError, TypeError):
        return None


def _write(path: Path, encoded: Encoded[Any]) -> None:
    """Write a file atomically; evict the least recently used files above the cache limit."""
    columns = _columns(encoded.examples)
    columns["kept"] = np.array(encoded.kept, dtype=np.int64)
    columns["counts"] = np.array([getattr(encoded, name) for name in COUNTS], dtype=np.int64)
    content = safetensors.numpy.save(columns)
    remove_leftovers(path.parent)
    write_aside(path, hashlib.sha256(content).digest() + content)
    for other in keep_within_limit(path, tokens_limit()):
        logger.info("removing %s: token cache exceeds %s", other, LIMIT_VARIABLE)


def _columns(examples: Sequence[Any]) -> dict[str, NDArray[Any]]:
    """A column per field: ids concatenated as int32, scalars as 64 bits; None has no column."""
    columns = {"lengths": np.array([len(one.input_ids) for one in examples], dtype=np.int64)}
    for field in fields(examples[0]):
        values = [getattr(example, field.name) for example in examples]
        if isinstance(values[0], tuple):  # one value per id
            columns[field.name] = np.fromiter(chain.from_iterable(values), dtype=np.int32)
        elif values[0] is not None:
            columns[field.name] = np.array(values)
    return columns


def _examples(
    example: type[AnExample], columns: Mapping[str, NDArray[Any]], count: int
) -> tuple[AnExample, ...]:
    bounds = [0, *np.cumsum(columns["lengths"]).tolist()]
    if np.any(columns["lengths"] < 1) or bounds[-1] != len(columns["input_ids"]):
        raise ValueError("the lengths are not those of the ids")
    values: list[Sequence[Any]] = []
    for field in fields(example):  # type: ignore[arg-type]  # every example class is a dataclass
        column = columns.get(field.name)
        flat = [None] * count if column is None else column.tolist()
        concatenated = column is not None and column.dtype == np.int32
        values.append([tuple(flat[a:b]) for a, b in pairwise(bounds)] if concatenated else flat)
    return tuple(example(*one) for one in zip(*values, strict=True))


@cache
def _source_digest() -> str:
    """A digest of the source of this package, which creates the tokens."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
