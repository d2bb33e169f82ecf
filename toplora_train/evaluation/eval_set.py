"""A task's rows with everything that decides how they are answered and scored."""

from __future__ import annotations

from dataclasses import dataclass

from toplora_train.data.rows import RowSet
from toplora_train.evaluation.protocol import CLEAN, Protocol


@dataclass(frozen=True)
class EvalSet:
    """One task, ready to be evaluated.

    Attributes:
        name: The task's name.
        kind: The method by which the rows are answered, a module of
            :mod:`toplora_train.evaluation.methods`.
        rows: The test rows, in the form in which the model sees them.
        extraction: How an answer is found in a generated text: ``number``, ``choice``, ``exact``.
        choices: The options of a ``choice``, or the classes of a head in the order of its outputs.
        response: The sentence in which an answer is given, ``{answer}`` standing for the option.
        max_new_tokens: The most tokens of a generated answer.
        version: The version of the task's definition.
        protocol: How prompts are worded, decoded and read.
        option_score: ``sum`` or ``mean`` of an option's log-likelihoods; None: the method's own.
        metric: What the score is.
        also: Further metrics that stand beside it.
        max_length: The longest row that a head sees, in tokens.
        overflow: What happens to a longer one: ``truncate`` or ``error``.
        prompt: The template of its prompts over the row's fields and columns; None: the protocol's.
        special_tokens: How special tokens in the rows' own text are encoded, where there are any.
    """

    name: str
    kind: str
    rows: RowSet
    extraction: str = "exact"
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
        """The most tokens of a generated answer; a legacy protocol has its own."""
        return self.protocol.max_new_tokens or self.max_new_tokens
