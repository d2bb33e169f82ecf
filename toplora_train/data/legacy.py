"""Prompts and encoding of the public scripts of LLM-Adapters, DoRA and TopLoRA, byte for byte.

For reproduction only. All three train on one prompt and evaluate on another (``_`` is a space):

=====================================  =======================  ===================  =============
..                                     training, all three      evaluation,          evaluation,
                                                                LLM-Adapters, DoRA   TopLoRA
=====================================  =======================  ===================  =============
end of the first line, without input   ``request.__``           ``request._``        ``request._``
end of the first line, with input      ``request._``            ``request.``         input ignored
indentation of every line              16                       16                   12
line before an inner ``###``           16 spaces                empty                empty
=====================================  =======================  ===================  =============

Only the first line of an instruction is indented. Prompt and response are encoded as one text and
truncated to 256 tokens; EOS is appended only to shorter rows, so truncated rows do not teach the
model to stop. ``protocol=clean`` has none of these problems.

Sources: LLM-Adapters (arXiv:2304.01933), DoRA (arXiv:2402.09353), TopLoRA (arXiv:2510.23123): their
training and evaluation scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toplora_train.data.encode import Example, OnRows, chunks, encode_prompt, end_of_text
from toplora_train.data.overflow import Encoded, NoneLeftError
from toplora_train.data.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CUTOFF = 256
SUPERVISES_PROMPT = {"legacy.llm_adapters": True, "legacy.toplora": False}

_REQUEST = "Write a response that appropriately completes the request."
_ALONE = f"Below is an instruction that describes a task. {_REQUEST}"
_PAIRED = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    f"context. {_REQUEST}"
)


def training_prompt(instruction: str, input: str = "") -> str:
    """The training prompt of all three projects."""
    opening = f"{_PAIRED} " if input else f"{_ALONE}  "
    return _prompt(opening, instruction, input, indent=16, gap=" " * 16)


def llm_adapters_prompt(instruction: str, input: str = "") -> str:
    """The evaluation prompt of LLM-Adapters and DoRA."""
    opening = _PAIRED if input else f"{_ALONE} "
    return _prompt(opening, instruction, input, indent=16, gap="")


def toplora_prompt(instruction: str, input: str = "") -> str:  # noqa: ARG001  (ignored)
    """The evaluation prompt of TopLoRA, which ignores the input."""
    return _prompt(f"{_ALONE} ", instruction, "", indent=12, gap="")


def encode_legacy_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    supervise_prompt: bool,
    on_rows: OnRows | None = None,
) -> Encoded[Example]:
    """Encode training rows as the scripts do, but drop rows without supervised tokens.

    The scripts keep such rows (the prompt alone fills the 256 tokens), and the loss of a batch of
    only such rows is NaN.

    Args:
        tokenizer: The base model's.
        rows: The rows.
        supervise_prompt: Whether the loss includes the prompt (it does in LLM-Adapters and DoRA,
            not in TopLoRA).
        on_rows: Progress callback.

    Raises:
        UserError: The tokenizer has no EOS, or no row has a supervised token.
    """
    eos = end_of_text(tokenizer)
    heads: list[list[int]] = []
    bodies: list[list[int]] = []
    for chunk in chunks(rows, on_rows):
        prompts = [training_prompt(row.instruction, row.input) for row in chunk]
        wholes = [prompt + row.output for prompt, row in zip(prompts, chunk, strict=True)]
        heads += tokenizer(prompts, truncation=True, max_length=CUTOFF)["input_ids"]
        bodies += tokenizer(wholes, truncation=True, max_length=CUTOFF)["input_ids"]
    examples: list[Example] = []
    kept: list[int] = []
    cut = 0
    for index, (head, body) in enumerate(zip(heads, bodies, strict=True)):
        ends = len(body) < CUTOFF or body[-1] == eos
        ids = [*body, eos] if len(body) < CUTOFF and body[-1] != eos else list(body)
        supervised_from = 0 if supervise_prompt else min(len(head), len(ids))
        if supervised_from == len(ids):
            continue
        cut += not ends
        kept.append(index)
        examples.append(Example(tuple(ids), supervised_from))
    if not examples:
        raise NoneLeftError(
            f"the prompts of all {{rows}} rows fill the {CUTOFF} tokens of the legacy protocol; "
            "nothing is left to train on",
            len(rows),
        )
    return Encoded(
        examples=tuple(examples),
        kept=tuple(kept),
        truncated_rows=cut,
        dropped_rows=len(rows) - len(examples),
    )


def count_prompt_mismatches(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    encoded: Encoded[Example],
    *,
    protocol: str,
) -> int:
    """Count the examples that do not start with the prompt tokens used in evaluation."""
    build_prompt = EVALUATION_PROMPTS[protocol]
    mismatches = 0
    for index, example in zip(encoded.kept, encoded.examples, strict=True):
        prompt = encode_prompt(tokenizer, build_prompt(rows[index].instruction, rows[index].input))
        mismatches += list(example.input_ids[: len(prompt)]) != prompt
    return mismatches


def _prompt(opening: str, instruction: str, input: str, *, indent: int, gap: str) -> str:
    blank = " " * indent
    lines = [opening, "", f"{blank}### Instruction:", f"{blank}{instruction}", gap]
    if input:
        lines += [f"{blank}### Input:", f"{blank}{input}", gap]
    return "\n".join([*lines, f"{blank}### Response:", blank])


EVALUATION_PROMPTS = {"legacy.llm_adapters": llm_adapters_prompt, "legacy.toplora": toplora_prompt}
