"""Token ids kept on disk, so that the same rows are encoded once, not in every run and process.

A file is named after everything that decides its content: the rows, the tokenizer, the settings,
the libraries' versions and the source of this package's own encoders. Nothing has to be declared
stale by hand; what no longer fits is simply not found. A file is the SHA-256 of the rest, and the
rest safetensors: all ids in one column, and beside it the columns that tell examples apart.
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

from toplora_train.config.aside import remove_leftovers, temporary_folder, write_aside
from toplora_train.config.cache import (
    LIMIT_VARIABLE,
    keep_within_limit,
    mark_used,
    tokens_limit,
)
from toplora_train.data.overflow import AnExample, Encoded

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

FRESH, FOUND, REBUILT = "encoded now", "from the cache", "encoded now: the cached file was damaged"
"""Where tokens came from, in words."""

COUNTS = ("truncated_rows", "dropped_rows", "prompt_mismatches")
DIGEST = 32  # bytes of a SHA-256


def tokens_key(rows_sha256: str, tokenizer_sha256: str, settings: Mapping[str, Any]) -> str:
    """A digest of everything that decides the tokens of some rows.

    Args:
        rows_sha256: The rows' own digest.
        tokenizer_sha256: The tokenizer's, see :func:`tokenizer_digest`.
        settings: What else the encoder is told, as plain values.
    """
    what = [
        rows_sha256,
        tokenizer_sha256,
        dict(settings),
        [transformers.__version__, tokenizers.__version__],
        _source_digest(),
    ]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of the files that the tokenizer would be saved as; where it came from is not told.

    To be taken before it is used: some tokenizers keep the last truncation as a part of themselves.
    A chat template that writes the day's date into a prompt makes it another tokenizer every day.
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
    """Whether the chat template asks for the day's date (Llama 3.2's does)."""
    return "strftime_now" in str(tokenizer.chat_template)


def load_or_encode(
    path: Path, example: type[AnExample], encode: Callable[[], Encoded[AnExample]]
) -> tuple[Encoded[AnExample], str]:
    """The cached examples, or new ones, which are then cached.

    A damaged file is noticed by its checksum and written anew. A folder that cannot be written to
    only costs the next run its time.

    Args:
        path: The file, named after :func:`tokens_key`.
        example: The class of the examples, a dataclass of ids and numbers.
        encode: Makes the examples.

    Returns:
        The examples and where they came from: ``FOUND``, ``FRESH`` or ``REBUILT``.
    """
    found = _read(path, example)
    if found is not None:
        mark_used(path)
        return found, FOUND
    tokens_limit()  # is it a size? Before the rows are encoded
    damaged = path.exists()
    if damaged:
        logger.warning("%s is damaged (its checksum is another); the rows are encoded anew", path)
    encoded = encode()
    try:
        _write(path, encoded)
    except OSError as error:
        logger.warning("the tokens cannot be kept in %s (%s)", path.parent, error.strerror)
    return encoded, REBUILT if damaged else FRESH


def _read(path: Path, example: type[AnExample]) -> Encoded[AnExample] | None:
    """The content of a file; None where it is missing or not what was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[DIGEST:]).digest() != content[:DIGEST]:
        return None
    columns = safetensors.numpy.load(content[DIGEST:])
    counts = dict(zip(COUNTS, columns["counts"].tolist(), strict=True))
    kept = tuple(columns["kept"].tolist())
    return Encoded(_examples(example, columns, len(kept)), kept, **counts)


def _write(path: Path, encoded: Encoded[Any]) -> None:
    """Write a file whole or not at all; the cache keeps within its limit by its oldest files."""
    columns = _columns(encoded.examples)
    columns["kept"] = np.array(encoded.kept, dtype=np.int64)
    columns["counts"] = np.array([getattr(encoded, name) for name in COUNTS], dtype=np.int64)
    content = safetensors.numpy.save(columns)
    remove_leftovers(path.parent)
    write_aside(path, hashlib.sha256(content).digest() + content)
    for other in keep_within_limit(path, tokens_limit()):
        logger.info("removing %s: cached tokens take more than %s", other, LIMIT_VARIABLE)


def _columns(examples: Sequence[Any]) -> dict[str, NDArray[Any]]:
    """A column per field: ids end to end as 32 bits, single numbers as 64; None is no column."""
    columns = {"lengths": np.array([len(one.input_ids) for one in examples], dtype=np.int64)}
    for field in fields(examples[0]):
        values = [getattr(example, field.name) for example in examples]
        if isinstance(values[0], tuple):  # as long as the ids
            columns[field.name] = np.fromiter(chain.from_iterable(values), dtype=np.int32)
        elif values[0] is not None:
            columns[field.name] = np.array(values)
    return columns


def _examples(
    example: type[AnExample], columns: Mapping[str, NDArray[Any]], count: int
) -> tuple[AnExample, ...]:
    bounds = [0, *np.cumsum(columns["lengths"]).tolist()]
    values: list[Sequence[Any]] = []
    for field in fields(example):  # type: ignore[arg-type]  # every kind of example is a dataclass
        column = columns.get(field.name)
        flat = [None] * count if column is None else column.tolist()
        together = column is not None and column.dtype == np.int32
        values.append([tuple(flat[a:b]) for a, b in pairwise(bounds)] if together else flat)
    return tuple(example(*one) for one in zip(*values, strict=True))


@cache
def _source_digest() -> str:
    """A digest of this package's modules that make tokens."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
