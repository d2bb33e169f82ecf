"""Published sizes of the Hub datasets used by this package's tasks."""

from __future__ import annotations

# Rows of each split by source and subset. The test splits of GLUE have no labels.
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


def published_rows(source: str, *, subset: str | None, split: str) -> int | None:
    """The number of rows of a split of a Hub dataset; None if unknown."""
    return ROWS.get((source, subset), {}).get(split)
