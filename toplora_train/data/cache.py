"""Token cache on disk, so that rows are encoded once and not in every run and process.

A set of rows is cached in pieces of ``PIECE`` rows, so that an encoding that was interrupted
continues at its last piece. A file is named by a hash of everything its content depends on: rows,
tokenizer, settings, library versions and the source of this package's encoders. So there is no
invalidation: a stale file is never found. A file is the SHA-256 of the rest, followed by an Arrow
table with a column per field of the examples. It is mapped into memory, so tokens occupy none of
the process's own; those that are not cached are mapped from a file that is already deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import date
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # has no types
import pyarrow.compute as pc  # type: ignore[import-untyped]  # likewise
import tokenizers
import transformers

from toplora_train.config.aside import remove_leftovers, temporary_folder, write_aside
from toplora_train.config.cache import LIMIT_VARIABLE, keep_within_limit, mark_used, tokens_limit
from toplora_train.data.on_disk import Lazy
from toplora_train.data.overflow import AnExample, Encoded, Examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

FRESH, FOUND, REBUILT = "encoded now", "from the cache", "encoded now (cached file damaged)"
PARTLY = "encoded now, the first part from the cache"
"""Where the tokens came from, as shown in reports."""

PIECE = 10_000  # rows
COUNTS = ("truncated_rows", "dropped_rows", "prompt_mismatches")
DIGEST = 32  # bytes of a SHA-256
IDS = pa.list_(pa.int32())


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
    path: Path | None,
    example: type[AnExample],
    encode: Callable[[], Iterable[Encoded[AnExample]]],
    *,
    vocabulary: int = 2**31,
) -> tuple[pa.Table, str]:
    """Load a cached piece, or encode and cache it.

    A damaged file is detected by its checksum, or by ids outside the vocabulary, and rewritten. If
    the folder is not writable, a warning is logged and nothing is cached.

    Args:
        path: The file, named by :func:`tokens_key` and the piece; None: nothing is cached.
        example: The class of the examples, a dataclass of ids and numbers.
        encode: Creates the examples, a part at a time; only one need be in memory.
        vocabulary: What every id is less than.

    Returns:
        A table for :func:`joined`, and where it came from: ``FOUND``, ``FRESH`` or ``REBUILT``.
    """
    found = None if path is None else _read(path, example, vocabulary)
    if path is not None and found is not None:
        mark_used(path)
        return found, FOUND
    tokens_limit()  # validate the setting before spending time on encoding
    damaged = path is not None and path.exists()
    if damaged:
        logger.warning("%s is damaged; encoding the rows again", path)
    table = _table(encode())
    return _mapped(path, table), REBUILT if damaged else FRESH


def joined(pieces: Sequence[pa.Table], example: type[AnExample]) -> Encoded[AnExample]:
    """The examples of all pieces; each is read from its file when it is used."""
    counts = dict.fromkeys(COUNTS, 0)
    for piece in pieces:
        for name, count in _counts(piece).items():
            counts[name] += count
    filled = [piece.replace_schema_metadata() for piece in pieces if piece.num_rows]
    if not filled:
        return Encoded((), (), **counts)
    table = pa.concat_tables(filled)
    examples = Examples(
        _Stored(table, example),
        lengths=pc.list_value_length(table["input_ids"]).to_numpy(),
        supervised=table["supervised"].to_numpy(),
    )
    return Encoded(examples, table["kept"].to_numpy(), **counts)


class _Stored(Lazy[AnExample]):
    """The rows of a table as examples."""

    def __init__(self, table: pa.Table, example: type[AnExample]) -> None:
        self._table, self._example = table.select(_names(example)), example

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[AnExample]:
        return (one for batch in self._table.to_batches() for one in self._examples(batch))

    def item(self, index: int) -> AnExample:
        return next(self._examples(self._table.slice(index, 1)))

    def _examples(self, rows: pa.Table | pa.RecordBatch) -> Iterator[AnExample]:
        for row in rows.to_pylist():
            yield self._example(
                **{name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
            )


def _read(path: Path, example: type[AnExample], vocabulary: int) -> pa.Table | None:
    """The content of a file; None if it is missing or damaged."""
    try:
        content = _buffer(path)
        if hashlib.sha256(content.slice(DIGEST)).digest() != content.slice(0, DIGEST).to_pybytes():
            return None
        table = _open(content)
        table.validate(full=True)
        _counts(table)
        if not table.num_rows:
            return table
        table.select([*_names(example), "kept", "supervised"])
        rows = table["input_ids"]
        ids = pc.min_max(pc.list_flatten(rows), skip_nulls=False).as_py()
        shortest = pc.min(pc.list_value_length(rows), skip_nulls=False).as_py()
        intact = rows.type == IDS and shortest > 0 and 0 <= ids["min"] <= ids["max"] < vocabulary
    except (OSError, pa.ArrowException, LookupError, ValueError, TypeError):
        return None
    return table if intact else None


def _buffer(path: Path) -> pa.Buffer:
    """A file, mapped into memory; the mapping outlives the file's name."""
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()


def _open(content: pa.Buffer) -> pa.Table:
    return pa.ipc.open_file(content.slice(DIGEST)).read_all()


def _mapped(path: Path | None, table: pa.Table) -> pa.Table:
    """The table, written to a file and mapped from there; without room for it, as it is."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    body = sink.getvalue().to_pybytes()
    content = hashlib.sha256(body).digest() + body
    if path is not None:
        try:
            _write(path, content)
            return _open(_buffer(path))
        except OSError as error:
            logger.warning("cannot cache tokens in %s (%s)", path.parent, error.strerror)
    with contextlib.suppress(OSError), temporary_folder() as folder:
        write_aside(folder / "tokens", content)
        return _open(_buffer(folder / "tokens"))
    return table


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically; evict the least recently used files above the cache limit."""
    remove_leftovers(path.parent)
    write_aside(path, content)
    for other in keep_within_limit(path, tokens_limit()):
        logger.info("removing %s: token cache exceeds %s", other, LIMIT_VARIABLE)


def _table(parts: Iterable[Encoded[Any]]) -> pa.Table:
    """A column per field, with the counts in the schema's metadata."""
    counts = Counter(dict.fromkeys(COUNTS, 0))
    batches = []
    for part in parts:
        counts.update({name: getattr(part, name) for name in COUNTS})
        if part.examples:
            batches.append(_batch(part))
    table = pa.Table.from_batches(batches) if batches else pa.table({})
    return table.replace_schema_metadata({"counts": json.dumps(counts)})


def _batch(part: Encoded[Any]) -> pa.RecordBatch:
    names = _names(type(part.examples[0]))
    columns = {name: [getattr(one, name) for one in part.examples] for name in names}
    columns |= {"kept": list(part.kept), "supervised": [one.supervised for one in part.examples]}
    return pa.RecordBatch.from_pydict({name: _column(one) for name, one in columns.items()})


def _column(values: Sequence[Any]) -> pa.Array:
    """Numbers, or lists of one number per id; or None in each row, of which there may be lists."""
    if values[0] is None:
        return pa.nulls(len(values), IDS)
    if not isinstance(values[0], tuple):
        return pa.array(values)
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, np.fromiter(chain.from_iterable(values), dtype=np.int32))


def _names(example: type[Any]) -> list[str]:
    """The fields of an example class, which is a dataclass."""
    return [one.name for one in fields(example)]


def _counts(table: pa.Table) -> dict[str, int]:
    """The numbers of truncated and dropped rows, and of prompts that mismatch."""
    written = json.loads((table.schema.metadata or {})[b"counts"])
    return {name: int(written[name]) for name in COUNTS}


@cache
def _source_digest() -> str:
    """A digest of the source of this package, which creates the tokens."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
