"""Parts of a source: slices of a split, a random fifth held out, and weighted copies.

``train[:10%]`` is the first tenth of the split ``train``, as in the ``datasets`` library.
``held-out:SOURCE`` is a fifth of the source's rows, at most 2,000, drawn at random but always the
same, stratified by label; ``rest-of:SOURCE`` are the others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from toplora_train.config.errors import UserError
from toplora_train.data.on_disk import OnDisk, Selected
from toplora_train.data.rows import Row
from toplora_train.data.shuffle import permutation, shuffled

if TYPE_CHECKING:
    from numpy.typing import NDArray

Item = TypeVar("Item")

HELD_OUT, REST_OF = "held-out:", "rest-of:"
SHARE, MOST = 5, 2000  # one in five rows, and the most rows
_SLICE = re.compile(r"[^\[\]]*\[(-?\d+%?)?:(-?\d+%?)?\]")


def without_part(source: str) -> tuple[str, str]:
    """The prefix that names a part, empty for the whole, and the source."""
    prefix = next((one for one in (HELD_OUT, REST_OF) if source.startswith(one)), "")
    return prefix, source.removeprefix(prefix)


def part(
    items: Sequence[Item], prefix: str, place: str, labels: Sequence[str] = ()
) -> Sequence[Item]:
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
        return items
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
    wanted = prefix == HELD_OUT
    return Selected(items, [at for at in range(len(items)) if (at in held) == wanted])


def sliced(items: Iterable[Item], split: str, place: str) -> Iterable[Item]:
    """The items in the slice at the end of a split, ``[10:20]`` or ``[:10%]``; all without one.

    Raises:
        UserError: It is no slice, or has no rows.
    """
    if "[" not in split:
        return items
    found = _SLICE.fullmatch(split)
    if found is None:
        raise UserError(f"split '{split}' must end in a slice such as [:10%] or [100:200]")
    kept = OnDisk(items)
    start, end = (None if one is None else _index(one, len(kept)) for one in found.groups())
    taken = kept[start:end]
    if not taken:
        raise UserError(f"{place}: split '{split}' has none of the {len(kept)} rows")
    return taken


def weighted(rows: Sequence[Row], weight: float) -> Iterator[Row]:
    """Each row ``weight`` times an epoch; of a fraction, as many rows drawn at random.

    The draw depends on the number of rows alone, so it is the same in every run. The copies' ids
    end in ``#2``, ``#3``, ...
    """
    times, rest = divmod(weight, 1)
    drawn = shuffled(range(len(rows)), random.Random("mixture"))[: round(rest * len(rows))]
    copies = [rows] * int(times) + [Selected(rows, sorted(drawn))]
    for number, copy in enumerate(copies, start=1):
        for row in copy:
            yield row if number == 1 else replace(row, id=f"{row.id}#{number}")


def _index(text: str, count: int) -> int:
    return round(int(text[:-1]) * count / 100) if text.endswith("%") else int(text)


def hold_out(
    groups: Sequence[int] | NDArray[Any], held: int, *, seed: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draw ``held`` row indices; return (training, validation), each in ascending order.

    Args:
        groups: The number of each row's group. A group is never divided, so that no copy of a
            held-out row, and no other piece of a held-out text, is trained on; the last may exceed
            ``held``.
        held: How many to draw.
        seed: The run's seed.

    Raises:
        UserError: No rows would be left for training.
    """
    import numpy as np  # slow to import, and only training needs it

    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    drawn = group_of[permutation(len(groups), random.Random(f"validation/{seed}"))]
    order = drawn[np.sort(np.unique(drawn, return_index=True)[1])]  # each group once, as drawn
    enough = int(np.searchsorted(sizes[order].cumsum(), held)) + 1 if held else 0
    is_held = np.isin(group_of, order[:enough])
    if held and is_held.all():
        raise UserError(
            f"dataset.validation_rows={held} leaves none of the {len(groups)} rows for training; "
            "lower it"
        )
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)
