"""A comparison as CSV: a row per method, then a row per pair of methods and measurement."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

OF_METHOD = (
    "average",
    "deviation",
    "trainable_parameters",
    "step_seconds",
    "relative_step",
    "peak_memory_bytes",
    "adapter_bytes",
    "evaluation_seconds",
    "forgetting",
    "seconds",
)
OF_PAIR = (
    "value",
    "low",
    "high",
    "p",
    "p_adjusted",
    "detectable",
    "seed_variance",
    "row_variance",
    "seeds_needed",
    "verdict",
)


def comparison_csv(document: Mapping[str, Any]) -> str:
    """The comparison's numbers as they were computed; scores and differences are fractions."""
    tasks = [f"score {task}" for task in document["tasks"]]
    columns = ["row", "method", "against", "measurement", "group", "seeds", "low", "high"]
    columns += [*OF_METHOD, *tasks, *(key for key in OF_PAIR if key not in columns)]
    return csv_text(columns, [*_methods(document), *_pairs(document)])


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """The ``columns`` of the rows; text is made harmless."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, "", "ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: harmless(value) for key, value in row.items()})
    return text.getvalue()


def harmless(value: object) -> object:
    """The value, with an apostrophe before text that a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple("=+-@\t\r")) else value


def _methods(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for method in document["methods"]:
        low, high = method["average_ci95"] or (None, None)
        yield {
            "row": "method",
            "method": method["name"],
            "group": method["group"],
            "seeds": " ".join(map(str, method["seeds"])),
            "low": low,
            "high": high,
            **{key: method[key] for key in OF_METHOD},
            **{f"score {task}": value for task, value in method["tasks"].items()},
        }


def _pairs(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for one in document["comparisons"]:
        average = {"average": one["average"]} if one["average"] is not None else {}
        for measurement, found in (average | one["tasks"]).items():
            low, high = found["ci95"]
            yield {
                "row": "comparison",
                "method": one["second"],
                "against": one["first"],
                "measurement": measurement,
                **{key: found.get(key) for key in OF_PAIR},
                "low": low,
                "high": high,
            }
