"""A small real run, configured in code: the tiny model on bundled rows."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.resolved import write_config
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


@pytest.fixture(autouse=True)
def _signals_are_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """A run that was trained once for all tests, which add evaluations to it and change nothing."""
    from toplora_train.run import finetune  # imports torch

    folder = tmp_path_factory.mktemp("trained")
    config = tiny_run(folder)
    write_config(config, folder / "config.yaml")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    finetune.run(config, folder)
    for number, handler in before.items():
        signal.signal(number, handler)
    return config, folder
