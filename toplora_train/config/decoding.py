"""How ``toplora-generate`` decodes: as the run's evaluation, or as its settings say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError

from toplora_train.config.check import first_problem
from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task
from toplora_train.config.schema import RunConfig

PROTOCOL_LIMITS = {"legacy.toplora": 256}
"""The most tokens of an answer in protocols that do not leave them to the task."""


@dataclass(frozen=True)
class Decoding:
    """Settings of decoding.

    Attributes:
        max_new_tokens: The most tokens of an answer.
        batch_size: Prompts per forward pass.
        temperature: The temperature of sampling; 0 decodes greedily.
        top_p: Sample from the most probable tokens that together have this probability.
        seed: The seed of sampling.
    """

    max_new_tokens: PositiveInt
    batch_size: PositiveInt
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1

    @property
    def sampling(self) -> dict[str, Any] | None:
        """The arguments of sampling; None for greedy decoding."""
        if not self.temperature:
            return None
        return {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


_DECODING = TypeAdapter(Decoding)


def find_decoding(config: RunConfig, given: Mapping[str, str]) -> Decoding:
    """The run's own settings, replaced by the ones that are ``given`` as typed.

    Raises:
        UserError: A value is invalid or has no effect, or the run trained a head.
    """
    if (task := head_task(config)) is not None:
        raise UserError(
            f"the run trained a head for {task.name}, which scores texts and generates none; use "
            "toplora-eval, or load it as adapter/README.md shows"
        )
    own = {"max_new_tokens": longest_answer(config), "batch_size": config.evaluation.batch_size}
    try:
        decoding = _DECODING.validate_python(own | dict(given))
    except ValidationError as error:
        key, problem = first_problem(error)
        raise UserError(f"{key} {problem}") from error
    for key in ("top_p", "seed"):
        if key in given and decoding.sampling is None:
            raise UserError(f"{key} applies to sampling; give temperature=0.7, or leave it out")
    return decoding


def longest_answer(config: RunConfig) -> int:
    """The most tokens of an answer in any of the run's tasks, or that its protocol sets."""
    if config.evaluation.protocol in PROTOCOL_LIMITS:
        return PROTOCOL_LIMITS[config.evaluation.protocol]
    lengths = [task.max_new_tokens for task in config.task.values()]
    if config.dataset.test is not None or not lengths:
        lengths.append(config.dataset.test_max_new_tokens)
    return max(lengths)
