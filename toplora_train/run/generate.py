"""``toplora-generate``: a finished run's answers, decoded as its evaluation decodes them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TextStreamer

from toplora_train.adapters.saving import WEIGHTS_FILE, sha256_of
from toplora_train.config.decoding import Decoding
from toplora_train.config.errors import UserError
from toplora_train.config.printable import printable
from toplora_train.config.schema import RunConfig
from toplora_train.config.template import PROMPT_FIELDS, columns
from toplora_train.data.chat import as_conversations, question_text
from toplora_train.data.conversation import Message
from toplora_train.data.formats.completion import VERBATIM
from toplora_train.data.rows import TEXT, Row, parse_row
from toplora_train.data.sources import read_rows
from toplora_train.data.special import find_special
from toplora_train.evaluation.decoding.decode import Generated, generate
from toplora_train.evaluation.decoding.prefix import common_prefix
from toplora_train.evaluation.protocol import find_protocol
from toplora_train.evaluation.validate import encode_within_positions
from toplora_train.report.record import completed_report
from toplora_train.run.platform.console import open_console
from toplora_train.run.platform.device import AUTOCAST, open_accelerator
from toplora_train.run.prepare.adapted_model import load_adapted
from toplora_train.run.prepare.objective import base_weights, locate_base
from toplora_train.run.prepare.parsing import training_parser


@dataclass(frozen=True)
class Prompt:
    """A row's whole prompt: the row's id, the text and its token ids."""

    id: str
    text: str
    ids: Sequence[int]


@dataclass(frozen=True)
class Answerer:
    """A run's model, ready to answer.

    Attributes:
        model: The base model with the run's adapter.
        tokenizer: Its tokenizer.
        config: The run's configuration.
        wording: How the run's rows became prompts (``data.wording`` in its report).
        prompt: The template of these prompts (``data.prompt``); None if they had none.
        decoding: How answers are decoded.
        weights: Identifies the weights of base model and adapter.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    config: RunConfig
    wording: str
    prompt: str | None
    decoding: Decoding
    weights: str

    @property
    def chat(self) -> bool:
        """Whether questions are put in the model's chat template, as in training."""
        return self.wording == "chat"

    def template(self) -> str:
        """The template that a question alone is put in; empty for the run's chat or protocol.

        Raises:
            UserError: It needs more of a row than a question.
        """
        if self.wording == "text":
            return VERBATIM
        names = () if self.prompt is None else columns(self.prompt)
        if self.prompt is None or ("instruction" in names and {*names} <= {*PROMPT_FIELDS}):
            return self.prompt or ""
        raise UserError(
            f"a question alone does not fill in the run's prompt {self.prompt!r}; give rows with "
            "the columns that it was trained on: file=ROWS.jsonl"
        )

    def question(self, text: str, before: Sequence[Message] = ()) -> Prompt:
        """The prompt of a question, in a chat after the messages ``before``.

        Raises:
            UserError: It is not UTF-8, exceeds the model's positions, or does not fill in the
                run's prompt.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError("the question is not valid UTF-8; correct its encoding") from error
        messages = (*before, Message("user", text)) if self.chat else ()
        return self._prompt(
            Row("", text, "", "", "", messages, prompt=self.template(), place="the question")
        )

    def read(self, source: str, limit: int | None) -> list[Prompt]:
        """The prompts of a file whose rows are like the run's own, or ``{"prompt": QUESTION}``.

        Raises:
            UserError: The file or a row cannot be read, or a row's prompt is too long.
        """
        own_row = training_parser(self.config)

        def parse(fields: object, **how: Any) -> Row:
            if isinstance(fields, Mapping) and fields.keys() - {"id"} == {"prompt"}:
                question = {"instruction": fields["prompt"], "id": fields.get("id")}
                return replace(parse_row(question, **how), prompt=self.template())
            row = own_row(fields, **how)
            if row.messages and not self.chat:
                raise UserError(
                    f"{row.where} is a conversation, but the run was not trained on "
                    "conversations; give an instruction"
                )
            if row.form == TEXT:
                row = replace(row, instruction=row.output)
            # A run on plain text learned no prompt: its evaluation asks an instruction in its own.
            if row.form or not (row.prompt or self.wording == "text"):
                row = replace(row, prompt=self.template())
            return row

        mirror = self.config.mirror
        rows = read_rows(source, data_root=mirror, split="test", limit=limit, parse=parse)
        if not rows.rows:
            raise UserError(f"{source} has no rows, so there is nothing to answer")
        if self.chat:
            rows = as_conversations(rows)
        return [self._prompt(row) for row in rows.rows]

    def answers(
        self, prompts: Sequence[Prompt], *, base: bool = False, streamer: Any = None
    ) -> Iterator[Generated]:
        """Answer the prompts in the evaluation's order; ``base``: without the adapter."""
        protocol = find_protocol(self.config.evaluation.protocol)
        ids = [prompt.ids for prompt in prompts]
        with self.model.disable_adapter() if base else nullcontext():
            yield from generate(
                self.model,
                self.tokenizer,
                ids,
                max_new_tokens=self.decoding.max_new_tokens,
                batch_size=self.decoding.batch_size,
                num_beams=protocol.num_beams,
                by_length=protocol.by_length,
                common=common_prefix(ids),
                autocast_dtype=AUTOCAST[self.config.trainer.mixed_precision],
                sampling=self.decoding.sampling,
                streamer=None if protocol.num_beams > 1 else streamer,  # beams are not final
            )

    def continue_sampling(self, who: str, done: int) -> None:
        """Draw the random numbers of ``who`` after its first ``done`` answers.

        They do not depend on how many answers others gave.
        """
        text = f"{self.decoding.seed} {who} {done}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]))

    def show(self, prompt: Prompt, *, base: bool = False, earlier: int = 0) -> Generated:
        """Print the answer to standard output as it is generated, and return it.

        Args:
            prompt: What is asked.
            base: Whether the base model answers, without the adapter.
            earlier: The questions before it, so that none is sampled with their random numbers.
        """
        self.continue_sampling("base" if base else "tuned", earlier)
        printer = Printer(self.tokenizer)
        (answer,) = self.answers([prompt], base=base, streamer=printer)
        if not printer.used:
            printer.on_finalized_text(answer.text, stream_end=True)
        return answer

    def _prompt(self, row: Row) -> Prompt:
        if self.config.dataset.special_tokens == "error":
            found = find_special(self.tokenizer, [row], outputs=False)
            if found.rows:
                raise UserError(
                    f"{row.where}: contains the model's special token "
                    f"{next(iter(found.tokens))}, which the run's dataset.special_tokens=error "
                    "refuses; remove it"
                )
        protocol = find_protocol(self.config.evaluation.protocol)
        text = question_text(self.tokenizer, row, protocol.build_prompt)
        ids = encode_within_positions(
            self.model, self.tokenizer, row, text, max_new_tokens=self.decoding.max_new_tokens
        )
        return Prompt(row.id, text, ids)


class Printer(TextStreamer):  # type: ignore[misc]  # transformers has no types
    """Prints tokens as they come, with control characters as escapes.

    Attributes:
        used: Whether it has printed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(
            tokenizer,
            skip_prompt=True,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        self.used = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """See :class:`transformers.TextStreamer`."""
        self.used = True
        sys.stdout.write(printable(text) + "\n" * stream_end)
        sys.stdout.flush()


def open_answerer(config: RunConfig, run_dir: Path, decoding: Decoding) -> Answerer:
    """Load a finished run's model.

    Args:
        config: The run's configuration, with the device to use.
        run_dir: The run.
        decoding: How answers are decoded.

    Raises:
        UserError: The run is not finished, or its adapter or base model is not the run's own.
    """
    data = completed_report(run_dir)["data"]
    open_console()
    accelerator = open_accelerator(config.launch.device, config.trainer.mixed_precision)
    adapted, tokenizer = load_adapted(config, run_dir, device=accelerator.device)
    base = base_weights(config, locate_base(config.model))
    weights = f"{base} {sha256_of(run_dir / 'adapter' / WEIGHTS_FILE)}"
    wording, prompt = data.get("wording", "alpaca"), data.get("prompt")
    return Answerer(adapted, tokenizer, config, wording, prompt, decoding, weights)
