"""Generate the answer and extract it from the text.

An answer in the task's own words is verified in one pass instead of generated; see
:mod:`toplora_train.evaluation.decoding.forced`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
from toplora_train.data.fields import shown
from toplora_train.data.rows import Row
from toplora_train.evaluation.answers import EXTRACTIONS, row_label
from toplora_train.evaluation.decoding.decode import generate
from toplora_train.evaluation.decoding.forced import prove_answers
from toplora_train.evaluation.decoding.prefix import common_prefix
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.methods import base
from toplora_train.evaluation.predictions import Prediction
from toplora_train.evaluation.run_evaluation import Answer, Score, Scores


class Generate(base.Method):
    """Extracts the answer from the text that the model generates after the prompt."""

    title = "generated"

    def validate(self, eval_set: EvalSet) -> None:
        """Refuse an extraction that the protocol does not support."""
        eval_set.protocol.extract("", eval_set.extraction, eval_set.choices)

    def identity(self, eval_set: EvalSet) -> dict[str, Any]:
        """Extraction, choices and length; verifying instead of decoding changes no answer."""
        return base.prompt_identity(eval_set, max_new_tokens=eval_set.token_limit)

    def validate_rows(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet
    ) -> None:
        """Refuse rows without an extractable answer, and prompts longer than the model allows.

        So is an extraction that finds no row's answer in the row's own output: a model that learned
        the outputs would have no answer right.
        """
        _prompts(model, tokenizer, eval_set)
        _validate_extraction(tokenizer, eval_set)

    def evaluate(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        eval_set: EvalSet,
        context: base.EvalContext,
    ) -> tuple[Score, list[Prediction]]:
        """Verify the answers that can be, decode the others, extract and score."""
        rows, protocol = eval_set.rows.rows, eval_set.protocol
        texts, ids = _prompts(model, tokenizer, eval_set)
        common = common_prefix(ids)
        template = base.frame_of(tokenizer, eval_set)[0].strip()

        def answer(pending: list[int]) -> Iterator[Answer]:
            left = dict.fromkeys(range(len(pending)))
            if eval_set.response is not None and eval_set.choices and protocol.chooses:
                for place, text in prove_answers(
                    model,
                    tokenizer,
                    [ids[index] for index in pending],
                    [eval_set.response.replace("{answer}", one) for one in eval_set.choices],
                    max_new_tokens=eval_set.token_limit,
                    batch_size=context.batch_size,
                    common=common,
                    autocast_dtype=context.autocast_dtype,
                ):
                    del left[place]
                    yield Answer(place, text)
            places = list(left)
            for one in generate(
                model,
                tokenizer,
                [ids[pending[place]] for place in places],
                max_new_tokens=eval_set.token_limit,
                batch_size=context.batch_size,
                num_beams=protocol.num_beams,
                by_length=protocol.by_length,
                common=common,
                autocast_dtype=context.autocast_dtype,
            ):
                text = _without(template, one.text)
                yield Answer(places[one.index], text, cut_off=not one.finished)

        def score_row(index: int, output: str, _scores: Scores | None) -> Prediction:
            label = row_label(rows[index], eval_set.extraction)
            found = protocol.extract(output, eval_set.extraction, eval_set.choices)
            correct = protocol.is_correct(found, label, eval_set.extraction)
            return Prediction(rows[index].id, texts[index], output, found, label, correct)

        return base.run_prompts(eval_set, texts, ids, context, answer=answer, score=score_row)


def _prompts(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet
) -> tuple[list[str], list[list[int]]]:
    for row in eval_set.rows.rows:
        label = row_label(row, eval_set.extraction)
        try:  # a legacy protocol reads fewer labels
            eval_set.protocol.is_correct(None, label, eval_set.extraction)
        except UserError as error:
            raise UserError(f"{row.where}: {error}") from None
    return base.encoded_prompts(
        model,
        tokenizer,
        eval_set,
        extraction=eval_set.extraction,
        max_new_tokens=eval_set.token_limit,
        choices=eval_set.choices,
    )


def _without(template: str, text: str) -> str:
    """An answer without what the chat template writes before it, which is not part of it."""
    return text.lstrip().removeprefix(template) if template else text


def _validate_extraction(tokenizer: PreTrainedTokenizerBase, eval_set: EvalSet) -> None:
    protocol, template = eval_set.protocol, base.frame_of(tokenizer, eval_set)[0].strip()

    def read(extraction: str) -> Iterator[tuple[Row, str | None, bool]]:
        """The rows with an output, what is read from it, and whether that is the answer."""
        for row in eval_set.rows.rows:
            if row.output.strip() and row.answer.strip():
                text = _without(template, row.response)
                found = protocol.extract(text, extraction, eval_set.choices)
                yield row, found, protocol.is_correct(found, row.answer, extraction)

    def count(extraction: str) -> int:
        try:
            return sum(correct for *_, correct in read(extraction))
        except UserError:  # the protocol has no such extraction, or it does not take the answers
            return 0

    first = next(read(eval_set.extraction), None)
    if first is None or any(correct for *_, correct in read(eval_set.extraction)):
        return
    counts = {name: count(name) for name in EXTRACTIONS}
    most = max(counts.values())
    if not most and eval_set.extraction != "exact":
        return  # the outputs are wrong themselves, as the first of some public test sets are
    row, found, _ = first
    key, better = eval_set.extraction_key, [name for name in counts if counts[name] == most > 0]
    raise UserError(
        f"{row.where}: {key}={eval_set.extraction} reads "
        f"{'nothing' if found is None else shown(found)} from its output, not its answer "
        f"{shown(row.answer)}, and no other row's answer from its output, so a model that learned "
        "the outputs would score 0 %; "
        + (f"set {key}={' or '.join(better)}" if better else "write the answers as the outputs are")
    )


METHOD = Generate()
