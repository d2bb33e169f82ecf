"""Encoded training sets, and the handling of rows longer than the limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from toplora_train.config.errors import UserError
from toplora_train.data.rows import Row

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


@dataclass(frozen=True)
class Encoded(Generic[AnExample]):
    """The examples of a training set, with counts of truncated and dropped rows.

    ``kept`` holds the row index of each example. ``prompt_mismatches`` counts examples whose prompt
    tokens differ in evaluation; it is 0 except with a legacy protocol.
    """

    examples: tuple[AnExample, ...]
    kept: tuple[int, ...]
    truncated_rows: int = 0
    dropped_rows: int = 0
    prompt_mismatches: int = 0

    @property
    def tokens(self) -> int:
        """The total number of ids."""
        return sum(len(example.input_ids) for example in self.examples)

    @property
    def supervised_tokens(self) -> int:
        """The number of supervised tokens, or of labels with a head."""
        return sum(example.supervised for example in self.examples)


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
        UserError: An example is too long with ``error``, none is left, or it is ``split``.
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
        raise UserError(
            f"{len(long)} of {len(rows)} rows are longer than max_length={max_length} tokens, the "
            f"longest is {rows[longest].where} with {len(whole[longest].input_ids)}; raise "
            f"dataset.max_length, or set {remedies}"
        )
    if overflow == "drop":
        dropped = set(long)
        kept = tuple(index for index in range(len(whole)) if index not in dropped)
        if not kept:
            raise UserError(
                f"all {len(rows)} rows are longer than max_length={max_length} and were dropped; "
                "raise dataset.max_length"
            )
        return Encoded(tuple(whole[index] for index in kept), kept, dropped_rows=len(long))
    examples = list(whole)
    for index, example in zip(long, cut(long), strict=True):
        examples[index] = example
    return Encoded(tuple(examples), tuple(range(len(whole))), truncated_rows=len(long))
