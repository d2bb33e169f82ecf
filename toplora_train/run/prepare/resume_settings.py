"""The settings that determine training; a resumed run must have the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from toplora_train.config.kinds import selects_by_loss
from toplora_train.config.resolved import DEFAULTS, flattened
from toplora_train.config.schema import RunConfig
from toplora_train.run.fit.best_checkpoint import selects
from toplora_train.run.prepare.parsing import learned_template

# These change what is written or shown, or how much memory and time the same updates take.
FREE = {
    "trainer.name",
    "trainer.log_every",
    "trainer.save_every",
    "trainer.save_minutes",
    "trainer.eval_every",
    "trainer.keep",
    "trainer.profile",
    "trainer.micro_batch_size",
    "trainer.activation_checkpointing",
    "trainer.compile",
    "trainer.liger",
    "model.package",
}


def resume_settings(
    config: RunConfig, *, rows_sha256: str, start_sha256: str | None = None
) -> dict[str, Any]:
    """Dotted keys to values.

    The rows, and the adapter that the run starts from, are represented by their hash, not by their
    location.
    """
    parts: dict[str, Any] = {
        "model": asdict(config.model),
        "adapter": {**config.adapter, "start_from": start_sha256},
        "optimizer": asdict(config.optimizer),
        "trainer": asdict(config.trainer),
        "dataset": {
            "rows": rows_sha256,
            "max_length": config.dataset.max_length,
            "overflow": config.dataset.overflow,
            "special_tokens": config.dataset.special_tokens,
            "learn": config.dataset.learn,
            "validation_rows": config.dataset.validation_rows,
            "validation_share": config.dataset.validation_share,
        },
        "evaluation": {"protocol": config.evaluation.protocol},  # of the training prompts, too
        "seed": config.seed,
        "plugins": {k: v for k, v in config.plugins.items() if not k.startswith("task/")},
    }
    if selects(config) and not selects_by_loss(config):  # the held-out scores depend on them
        parts["task"] = {
            name: {key: getattr(task, key) for key in ("metric", "extraction", "max_new_tokens")}
            for name, task in config.task.items()
        }
    template = learned_template(config)
    if template is not None:  # a checkpoint from before templates has no such key
        parts["dataset"]["prompt"] = template
    free = FREE - {"trainer.eval_every"} if selects(config) else FREE  # it sets the candidates
    return {
        key: value for key, value in flattened(parts).items() if key not in free and value != {}
    }


def with_defaults(stored: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's settings; a key of ``now`` that is newer than it has its default."""
    known = DEFAULTS | {"evaluation.protocol": "clean"}
    if not any(key.startswith("task.") for key in stored):  # it has none to compare with
        known = known | {key: value for key, value in now.items() if key.startswith("task.")}
    return {key: known[key] for key in now if key in known} | dict(stored)
