"""How a run treats and reports special tokens in the text of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task
from toplora_train.config.schema import RunConfig
from toplora_train.data.legacy import SUPERVISES_PROMPT
from toplora_train.data.pixels import load_image_reader
from toplora_train.data.rows import Row
from toplora_train.data.special import Found, encode_as_text, find_special
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.models.load import load_tokenizer
from toplora_train.models.locate import ModelLocation

TRAINING = "the training rows"


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens found in each set of rows, and their encoding (``keep`` or ``text``)."""

    encoded: str = "keep"
    found: Mapping[str, Found] = field(default_factory=dict)

    def marked(self, eval_sets: Sequence[EvalSet]) -> list[EvalSet]:
        """The test sets, marked with the encoding where they contain special tokens."""
        return [
            replace(one, special_tokens=self.encoded) if _task(one) in self.found else one
            for one in eval_sets
        ]

    @property
    def sentences(self) -> list[str]:
        """A line for each set of rows that contains some."""
        how = (
            "encoded as the special tokens (dataset.special_tokens=text encodes them as text)"
            if self.encoded == "keep"
            else "encoded as text"
        )
        return [
            f"special tokens in the text of {name}: {_listed(found)}, {how}"
            for name, found in self.found.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """The special tokens as the report records them."""
        return {
            "encoded": self.encoded,
            "rows": {name: found.rows for name, found in self.found.items()},
            "tokens": {name: dict(found.tokens) for name, found in self.found.items()},
        }


def open_tokenizer(config: RunConfig, location: ModelLocation) -> PreTrainedTokenizerBase:
    """The model's tokenizer, set to encode special tokens in text as configured.

    For a task of images it is the reader of the model's images.

    Raises:
        UserError: There is none, or it does not support that.
    """
    task = head_task(config)
    if task is not None and task.image is not None:
        return load_image_reader(location.folder, location.name, trusted=location.trusted)
    tokenizer = load_tokenizer(location)
    if config.dataset.special_tokens == "text":
        if config.evaluation.protocol in SUPERVISES_PROMPT:
            raise UserError(
                f"evaluation.protocol={config.evaluation.protocol} encodes special tokens like the "
                "scripts it reproduces; use dataset.special_tokens=keep or error"
            )
        encode_as_text(tokenizer)
    return tokenizer


def special_tokens(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    eval_sets: Sequence[EvalSet],
    *,
    wanted: str,
) -> SpecialTokens:
    """Count the special tokens in the text of all rows.

    Args:
        tokenizer: The run's.
        rows: The training rows; empty for an evaluation.
        eval_sets: The test rows.
        wanted: ``keep``, ``text``, or ``error``, which refuses them.

    Raises:
        UserError: There are some under ``error``; the message names the first row.
    """
    found = {TRAINING: find_special(tokenizer, rows)}
    for one in eval_sets:
        found[_task(one)] = find_special(tokenizer, one.rows.rows, outputs=False)
    found = {name: one for name, one in found.items() if one.rows}
    if wanted == "error" and found:
        name, first = next(iter(found.items()))
        raise UserError(
            f"{first.first}: contains a special token of the model (in {name}: {_listed(first)}); "
            "remove it, or set dataset.special_tokens=text (encode it as text) or keep (as the "
            "special token)"
        )
    return SpecialTokens("text" if wanted == "text" else "keep", found)


def _task(eval_set: EvalSet) -> str:
    return f"task {eval_set.name}"


def _listed(found: Found) -> str:
    # Quoted, because Markdown would treat <eos> as HTML.
    times = ", ".join(f"`{token}` {count}x" for token, count in found.tokens.items())
    return f"{times} in {found.rows} row{'' if found.rows == 1 else 's'}"
