"""Composed values of a small run, as Hydra returns them."""

from typing import Any

from toplora_train.config.check import check
from toplora_train.config.schema import RunConfig


def values(**changes: Any) -> dict[str, Any]:
    """The values of a run; dotted keys, with ``__`` for the dot, change or add some."""
    tree: dict[str, Any] = {
        "model": {"name": "tiny", "builtin": "tiny"},
        "dataset": {"name": "mine", "train": "owner/rows"},
        "task": {"boolq": {"name": "boolq", "source": "owner/boolq"}},
        "adapter": {"name": "toplora", "r": 4},
        "optimizer": {"name": "adamw", "lr": 1e-4},
        "trainer": {"batch_size": 8, "micro_batch_size": 4},
        "evaluation": {},
        "tracker": {"name": "none"},
        "launch": {},
        "output_dir": "/runs/one",
    }
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def run_config(*, recipe: str | None = None, command: str = "", **changes: Any) -> RunConfig:
    """A checked configuration."""
    return check(values(**changes), recipe=recipe, command=command)
