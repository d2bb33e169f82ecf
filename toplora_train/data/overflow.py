"""Encoded training sets, and the handling of rows longer than the limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from toplora_train.config.errors import UserError
from toplora_train.data.on_disk import Lazy, Selected
from toplora_train.data.rows import Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

WAYS = ("error", "drop", "truncate")
SPLIT = "split"  # plain text only, see encode_rows


class AnyExample(Protocol):
    """The interface of all example classes."""

    @property
    def input_ids(self) -> tuple[int, ...]:
        """Its token ids."""

    @property
    def supervised(self) -> int:
        """The number of terms it adds to the loss: its supervised tokens, or 1 with a head."""


AnExample = TypeVar("AnExample", bound=AnyExample)


class Examples(Lazy[AnExample]):
    """Examples with the number of ids and of supervised tokens of each, as arrays.

    Args:
        items: The examples, which need not be in memory.
        lengths: The number of ids of each.
        supervised: The number of terms of the loss of each.
    """

    def __init__(
        self, items: Sequence[AnExample], *, lengths: NDArray[Any], supervised: NDArray[Any]
    ) -> None:
        self._items, self.lengths, self.supervised = items, lengths, supervised

    @classmethod
    def of(cls, items: Sequence[AnExample]) -> Examples[AnExample]:
        """The examples themselves if they are such, else with their numbers counted."""
        if isinstance(items, Examples):
            return items
        return cls(
            items,
            lengths=np.array([len(one.input_ids) for one in items], dtype=np.int64),
            supervised=np.array([one.supervised for one in items], dtype=np.int64),
        )

    def select(self, indices: Sequence[int] | NDArray[Any]) -> Examples[AnExample]:
        """The examples at some indices, in their order."""
        return Examples(
            Selected(self._items, indices),
            lengths=self.lengths[indices],
            supervised=self.supervised[indices],
        )

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[AnExample]:
        return iter(self._items)

    def item(self, index: int) -> AnExample:  # noqa: D102  (Lazy's)
        return self._items[index]


class TooLongError(UserError):
    """Rows are longer than the limit, under ``error``.

    Args:
        long: How many.
        rows: Of how many.
        longest: The number of ids of the longest, and where it is.
        limit: The maximum length.
        remedies: What is suggested besides a larger limit.
    """

    def __init__(
        self, long: int, rows: int, longest: tuple[int, str], limit: int, remedies: str
    ) -> None:
        self.long, self.longest, self.limit, self.remedies = long, longest, limit, remedies
        super().__init__(
            f"{long} of {rows} rows are longer than max_length={limit} tokens, the longest is "
            f"{longest[1]} with {longest[0]}; raise dataset.max_length, or set {remedies}"
        )

    @classmethod
    def of_all(cls, parts: Sequence[TooLongError], rows: int) -> TooLongError:
        """The error of ``rows`` rows, from those of their parts."""
        longest = max((one.longest for one in parts), key=lambda one: one[0])
        return cls(sum(one.long for one in parts), rows, longest, parts[0].limit, parts[0].remedies)


class NoneLeftError(UserError):
    """All of some rows are left out; ``reason`` has ``{rows}`` in place of their number."""

    def __init__(self, reason: str, rows: int) -> None:
        self.reason = reason
        super().__init__(reason.format(rows=rows))


@dataclass(frozen=True)
class Encoded(Generic[AnExample]):
    """The examples of a training set, with counts of truncated and dropped rows.

    ``kept`` holds the row index of each example. ``prompt_mismatches`` counts examples whose prompt
    tokens differ in evaluation; it is 0 except with a legacy protocol.
    """

    examples: Sequence[AnExample]
    kept: Sequence[int] | NDArray[Any]
    truncated_rows: int = 0
    dropped_rows: int = 0
    prompt_mismatches: int = 0

    @property
    def tokens(self) -> int:
        """The total number of ids."""
        return int(Examples.of(self.examples).lengths.sum())

    @property
    def supervised_tokens(self) -> int:
        """The number of supervised tokens, or of labels with a head."""
        return int(Examples.of(self.examples).supervised.sum())


def within_limit(
    whole: Sequence[AnExample],
    rows: Sequence[Row],
    *,
    max_length: int,
    overflow: str,
    cut: Callable[[list[int]], Iterable[AnExample]],
    remedies: str,
) -> Encoded[AnExample]:
    """Apply ``overflow`` to the examples that are longer than ``max_length``.

    Args:
        whole: The untruncated example of each row.
        rows: The rows.
        max_length: The maximum length of an example, in ids.
        overflow: ``error``; ``drop``, which leaves the row out; or ``truncate``.
        cut: Creates the truncated examples of the rows with the given indices.
        remedies: What the error message suggests besides a larger ``max_length``.

    Raises:
        TooLongError: An example is too long with ``error``.
        NoneLeftError: None is left.
        UserError: ``overflow`` is ``split``.
        ValueError: ``overflow`` is none of the three.
    """
    if overflow == SPLIT:
        raise UserError(
            f"dataset.overflow=split is for plain text, and {rows[0].where} is not; use drop or "
            "truncate"
        )
    if overflow not in WAYS:
        raise ValueError(f"overflow must be error, drop or truncate, not {overflow!r}")
    long = [index for index, example in enumerate(whole) if len(example.input_ids) > max_length]
    if not long:
        return Encoded(tuple(whole), tuple(range(len(whole))))
    if overflow == "error":
        longest = max(long, key=lambda index: len(whole[index].input_ids))
        found = len(whole[longest].input_ids), rows[longest].where
        raise TooLongError(len(long), len(rows), found, max_length, remedies)
    if overflow == "drop":
        dropped = set(long)
        kept = tuple(index for index in range(len(whole)) if index not in dropped)
        if not kept:
            raise NoneLeftError(
                f"all {{rows}} rows are longer than max_length={max_length} and were dropped; "
                "raise dataset.max_length",
                len(rows),
            )
        return Encoded(tuple(whole[index] for index in kept), kept, dropped_rows=len(long))
    examples = list(whole)
    for index, example in zip(long, cut(long), strict=True):
        examples[index] = example
    return Encoded(tuple(examples), tuple(range(len(whole))), truncated_rows=len(long))
