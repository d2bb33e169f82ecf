"""Every answer of a run, for the table in ``report.html``.

The base and the tuned model's answers to a row stand together. What is long is cut, and what does
not fit into the page is left to ``predictions/``; the page says how much that is.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from toplora_train.config.printable import printable
from toplora_train.evaluation.predictions import Prediction
from toplora_train.report.curves import spread

LONGEST = 4000  # characters of a text in the page
PAGE_BYTES = 2_000_000  # of all packed answers of a page, which stays under 3 MB
RIGHT, BASE_RIGHT, SEEN, NO_BASE = 1, 2, 4, 8


def changed(flags: int) -> bool:
    """Whether one of the models is right and the other wrong."""
    return not flags & NO_BASE and bool(flags & RIGHT) != bool(flags & BASE_RIGHT)


# The filters, in the order of the page: what the adapter fixed and broke comes first.
FILTERS: dict[str, tuple[str, Callable[[int, Prediction], bool]]] = {
    "fixed": ("fixed by the adapter", lambda flags, _: changed(flags) and bool(flags & RIGHT)),
    "broken": ("broken by the adapter", lambda flags, _: changed(flags) and not flags & RIGHT),
    "wrong": ("wrong", lambda flags, _: not flags & RIGHT),
    "right": ("right", lambda flags, _: bool(flags & RIGHT)),
    "unreadable": ("unreadable", lambda _, own: own.prediction is None),
    "seen": ("in the training rows", lambda flags, _: bool(flags & SEEN)),
    "all": ("all", lambda *_: True),
}


def answer_table(
    task: str,
    tuned: Sequence[Prediction],
    base: Sequence[Prediction],
    *,
    seen: Collection[str] = (),
    most_bytes: int = PAGE_BYTES,
) -> dict[str, Any]:
    """A task's answers, packed for the page's script.

    Args:
        task: The task's name.
        tuned: The tuned model's answers.
        base: The base model's, matched by the rows' ids; empty if it was not evaluated.
        seen: Ids of the rows that are also in the training data.
        most_bytes: Size limit of ``packed``.

    Returns:
        ``counts`` (by filter, over all rows), ``rows`` and ``shown`` (how many there are, and how
        many are in the page), ``cut`` (texts cut), and ``packed`` (base64 of gzipped JSON, see
        ``report.js``).
    """
    of_base = {one.id: one for one in base}
    flags = [_flags(one, of_base.get(one.id), one.id in seen) for one in tuned]
    counts = {name: sum(map(keep, flags, tuned)) for name, (_, keep) in FILTERS.items()}
    unknown = {"fixed", "broken"} if not base else set()
    if not seen:
        unknown.add("seen")
    before, after = _shared([one.prompt for one in tuned])
    # Rows that the adapter changed come first, so that they are kept; the rest are spread evenly.
    order = [place for place, flag in enumerate(flags) if changed(flag)]
    others = [place for place, flag in enumerate(flags) if not changed(flag)]
    kept = len(tuned)
    while True:
        places = sorted([*order[:kept], *spread(others, max(0, kept - len(order)))])
        texts = _Texts(task)
        rows = [
            _row(texts, place, flags[place], tuned[place], of_base, (len(before), len(after)))
            for place in places
        ]
        table = {"before": printable(before), "after": printable(after), "rows": rows}
        packed = pack(table)
        if len(packed) <= most_bytes or not kept:
            break
        kept = int(kept * 0.95 * most_bytes / len(packed))
    return {
        "counts": {name: n for name, n in counts.items() if name not in unknown},
        "rows": len(tuned),
        "shown": len(rows),
        "cut": texts.cut,
        "packed": packed,
    }


def pack(value: Any) -> str:
    """Base64 of gzipped JSON; equal values give equal text."""
    plain = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(plain.encode(), 6, mtime=0)).decode()


class _Texts:
    """Makes texts safe to show and cuts long ones, counting those."""

    def __init__(self, task: str) -> None:
        self._file = f"predictions/{task}.jsonl"
        self.cut = 0

    def __call__(self, text: str | None) -> str | None:
        if text is None or len(text) <= LONGEST:
            return None if text is None else printable(text)
        self.cut += 1
        return (
            f"{printable(text[:LONGEST])}\N{HORIZONTAL ELLIPSIS}\n"
            f"[{len(text) - LONGEST:,} more characters in {printable(self._file)}]"
        )


def _row(
    texts: _Texts,
    place: int,
    flags: int,
    own: Prediction,
    of_base: Mapping[str, Prediction],
    shared: tuple[int, int],
) -> list[Any]:
    """The order is that of ``report.js``."""
    base = of_base.get(own.id)
    prompt = own.prompt[shared[0] : len(own.prompt) - shared[1]]
    return [
        place,
        texts(own.id),
        flags,
        texts(prompt),
        texts(own.label),
        texts(own.prediction),
        texts(own.output),
        len(own.output),
        texts(base.prediction) if base else None,
        texts(base.output) if base else None,
        _scores(texts, own, base),
    ]


def _scores(texts: _Texts, own: Prediction, base: Prediction | None) -> list[list[Any]] | None:
    """By choice, the tuned and the base model's scores."""
    if own.scores is None:
        return None
    of_base = (base.scores if base else None) or {}
    return [[texts(choice), score, of_base.get(choice)] for choice, score in own.scores.items()]


def _flags(own: Prediction, base: Prediction | None, seen: bool) -> int:
    of_base = NO_BASE if base is None else BASE_RIGHT * base.correct
    return RIGHT * own.correct + of_base + SEEN * seen


def _shared(prompts: Sequence[str]) -> tuple[str, str]:
    """The lines that all prompts begin with, and those that all end with: shown once each."""
    if len(prompts) < 2:
        return "", ""
    before = _common(prompts)
    before = before[: before.rfind("\n") + 1]
    after = _common([prompt[len(before) :][::-1] for prompt in prompts])[::-1]
    newline = after.find("\n")
    return before, after[newline:] if newline >= 0 else ""


def _common(texts: Sequence[str]) -> str:
    """The longest common prefix: that of the first and the last text in order."""
    low, high = min(texts), max(texts)
    same = (one == other for one, other in zip(low, high, strict=False))
    return low[: next((place for place, equal in enumerate(same) if not equal), len(low))]
