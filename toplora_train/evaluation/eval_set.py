"""A task's rows with all settings that affect how they are answered and scored."""

from __future__ import annotations

from dataclasses import dataclass

from toplora_train.data.rows import RowSet
from toplora_train.evaluation.protocol import CLEAN, Protocol


@dataclass(frozen=True)
class EvalSet:
    """One task, ready to be evaluated.

    Attributes:
        name: The task's name.
        kind: The evaluation method, a module of :mod:`toplora_train.evaluation.methods`.
        rows: The test rows, in the form in which the model sees them.
        extraction: How answers are extracted from generated text: ``number``, ``choice``,
            ``exact``.
        extraction_key: The setting that names the extraction, for error messages.
        choices: The options of a ``choice``, or the classes of a head in the order of its outputs.
        response: The answer sentence, with ``{answer}`` in the place of the option.
        max_new_tokens: The most tokens of a generated answer.
        version: The version of the task's definition.
        protocol: How questions are worded, decoded and scored.
        option_score: ``sum`` or ``mean`` of an option's token log-likelihoods; None: the method's
            default.
        metric: The main metric.
        also: Additional metrics.
        max_length: The most tokens of a row for a head.
        overflow: How a head's longer rows are handled: ``truncate`` or ``error``.
        prompt: Template of the prompts over the rows' columns; None: the protocol's own prompt.
        special_tokens: How special tokens that occur in the rows' text are encoded.
    """

    name: str
    kind: str
    rows: RowSet
    extraction: str = "exact"
    extraction_key: str = "extraction"
    choices: tuple[str, ...] = ()
    response: str | None = None
    max_new_tokens: int = 32
    version: int = 1
    protocol: Protocol = CLEAN
    option_score: str | None = None
    metric: str = "accuracy"
    also: tuple[str, ...] = ()
    max_length: int = 0
    overflow: str = "error"
    prompt: str | None = None
    special_tokens: str = "keep"

    @property
    def token_limit(self) -> int:
        """The most tokens of a generated answer; a legacy protocol may set its own."""
        return self.protocol.max_new_tokens or self.max_new_tokens
