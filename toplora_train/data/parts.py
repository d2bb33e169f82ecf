"""Parts of a source: slices of a split, a random fifth held out, and weighted copies.

``train[:10%]`` is the first tenth of the split ``train``, as in the ``datasets`` library.
``held-out:SOURCE`` is a fifth of the source's rows, at most 2,000, drawn at random but always the
same, stratified by label; ``rest-of:SOURCE`` are the others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TypeVar

from toplora_train.config.errors import UserError
from toplora_train.data.rows import Row
from toplora_train.data.shuffle import shuffled

Item = TypeVar("Item")

HELD_OUT, REST_OF = "held-out:", "rest-of:"
SHARE, MOST = 5, 2000  # one in five rows, and the most rows
_SLICE = re.compile(r"[^\[\]]*\[(-?\d+%?)?:(-?\d+%?)?\]")


def without_part(source: str) -> tuple[str, str]:
    """The prefix that names a part, empty for the whole, and the source."""
    prefix = next((one for one in (HELD_OUT, REST_OF) if source.startswith(one)), "")
    return prefix, source.removeprefix(prefix)


def part(items: Sequence[Item], prefix: str, place: str, labels: Sequence[str] = ()) -> list[Item]:
    """The items of the part, in their order.

    Args:
        items: Those of the whole source.
        prefix: Which part; empty for the whole.
        place: The source, for the error message.
        labels: The items' labels: the held-out part has its share of each.

    Raises:
        UserError: There are too few for two parts.
    """
    if not prefix:
        return list(items)
    if len(items) < 2:
        raise UserError(f"{place}: {len(items)} row cannot be divided; give test rows of their own")
    count = min(MOST, max(1, round(len(items) / SHARE)))
    order = shuffled(range(len(items)), random.Random("held out"))
    if labels:
        order.sort(key=lambda index: labels[index])  # stable: at random within a label
    # Evenly spaced over the sorted rows, so each label's count is within one of its share.
    held = {
        one
        for index, one in enumerate(order)
        if (index + 1) * count // len(items) > index * count // len(items)
    }
    return [item for index, item in enumerate(items) if (index in held) == (prefix == HELD_OUT)]


def sliced(items: Sequence[Item], split: str, place: str) -> list[Item]:
    """The items in the slice at the end of a split, ``[10:20]`` or ``[:10%]``; all without one.

    Raises:
        UserError: It is no slice, or has no rows.
    """
    if "[" not in split:
        return list(items)
    found = _SLICE.fullmatch(split)
    if found is None:
        raise UserError(f"split '{split}' must end in a slice such as [:10%] or [100:200]")
    start, end = (None if one is None else _index(one, len(items)) for one in found.groups())
    taken = list(items[start:end])
    if not taken:
        raise UserError(f"{place}: split '{split}' has none of the {len(items)} rows")
    return taken


def weighted(rows: Sequence[Row], weight: float) -> list[Row]:
    """Each row ``weight`` times an epoch; of a fraction, as many rows drawn at random.

    The draw depends on the number of rows alone, so it is the same in every run. The copies' ids
    end in ``#2``, ``#3``, ...
    """
    times, rest = divmod(weight, 1)
    drawn = shuffled(range(len(rows)), random.Random("mixture"))[: round(rest * len(rows))]
    counts = [list(rows)] * int(times) + [[rows[index] for index in sorted(drawn)]]
    return [
        row if copy == 1 else replace(row, id=f"{row.id}#{copy}")
        for copy, copies in enumerate(counts, start=1)
        for row in copies
    ]


def _index(text: str, count: int) -> int:
    return round(int(text[:-1]) * count / 100) if text.endswith("%") else int(text)


def hold_out(groups: Sequence[Hashable], held: int, *, seed: int) -> tuple[list[int], list[int]]:
    """Draw ``held`` row indices; return (training, validation), each in ascending order.

    Args:
        groups: The group of each row. A group is never divided, so that no copy of a held-out row,
            and no other piece of a held-out text, is trained on; the last may exceed ``held``.
        held: How many to draw.
        seed: The run's seed.

    Raises:
        UserError: No rows would be left for training.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    drawn: set[int] = set()
    for index in shuffled(range(len(groups)), random.Random(f"validation/{seed}")):
        if len(drawn) >= held:
            break
        drawn.update(members[groups[index]])
    if held and len(drawn) >= len(groups):
        raise UserError(
            f"dataset.validation_rows={held} leaves none of the {len(groups)} rows for training; "
            "lower it"
        )
    return [i for i in range(len(groups)) if i not in drawn], sorted(drawn)
