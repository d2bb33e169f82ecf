"""A small real run, configured in code: the tiny model on bundled rows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.schema import (
    DatasetSettings,
    EvaluationSettings,
    LaunchSettings,
    ModelSettings,
    OptimizerSettings,
    RunConfig,
    TaskSettings,
    TrackerSettings,
    TrainerSettings,
)


def tiny_run(folder: Path, adapter: str = "toplora", **changes: Any) -> RunConfig:
    settings, _ = adapter_defaults(adapter)
    config = RunConfig(
        model=ModelSettings(name="tiny", builtin="tiny"),
        dataset=DatasetSettings(
            name="arithmetic", train="bundled:arithmetic/train.jsonl", limit=20, max_length=512
        ),
        adapter=settings,
        optimizer=OptimizerSettings(name="adamw", lr=1e-3),
        trainer=TrainerSettings(batch_size=8, micro_batch_size=4, max_steps=4, log_every=1),
        evaluation=EvaluationSettings(limit=3),
        tracker=TrackerSettings(name="none"),
        launch=LaunchSettings(device="cpu"),
        output_dir=str(folder),
        task={
            "arithmetic": TaskSettings(
                name="arithmetic",
                source="bundled:arithmetic/test.jsonl",
                extraction="number",
                max_new_tokens=4,
            )
        },
        command="toplora-train in a test",
    )
    return replace(config, **changes)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunConfig]:
    return lambda **changes: tiny_run(tmp_path / "run", **changes)
