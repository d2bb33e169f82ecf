"""The adapter on a model without weights: mistakes show, and memory is known, before slow work."""

from __future__ import annotations

import logging

from accelerate import Accelerator

from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.schema import RunConfig
from toplora_train.models.memory import resident_memory
from toplora_train.run.fit.optimization import make_optimizer
from toplora_train.run.prepare.objective import load_base
from toplora_train.run.prepare.run_data import RunData
from toplora_train.run.prepare.start_from import StartFrom, find_start
from toplora_train.run.prepare.step_memory import (
    UnknownStepError,
    embedding_parameters,
    longest_rows,
    step_memory,
)
from toplora_train.run.prepare.validate_rows import validate_rows

log = logging.getLogger(__name__)


def validate_adapter(
    config: RunConfig, run_data: RunData, accelerator: Accelerator
) -> tuple[StartFrom | None, int | None]:
    """Attach the adapter to a model on the meta device: mistakes show before slow work.

    Returns:
        The adapter that it starts from, if there is one, and the bytes that this process is going
        to take; None where a step cannot be simulated.
    """
    on_cpu = accelerator.device.type == "cpu"
    process = resident_memory() if on_cpu else 0
    without_weights = load_base(config, run_data.location, run_data.objective.head, meta=True)
    validate_rows(without_weights, run_data)
    origin = find_start(config, without_weights)
    parameters, embeddings = without_weights.num_parameters(), embedding_parameters(without_weights)
    adapted = attach_adapter(without_weights, config.adapter, seed=config.seed)
    make_optimizer(adapted, config.optimizer)
    step = step_memory(
        adapted,
        config,
        longest_rows(run_data),
        run_data.objective.loss,
        parameters=parameters,
        embeddings=embeddings,
        process=process,
    )
    try:
        return origin, step.of_each(accelerator.num_processes, config.launch.engine).total
    except UnknownStepError as error:
        log.info("the memory of a step is unknown: %s", error)
        return origin, None
