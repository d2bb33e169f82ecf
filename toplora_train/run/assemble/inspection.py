"""Measure a trained adapter: its updates, TopLoRA's gates, and what the gates contribute.

Written to ``RUN/inspection/``: ``inspection.json``, ``gates.parquet`` and, for the scores with
fixed gates, ``predictions/``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from toplora_train.adapters import structure
from toplora_train.adapters.fusion import FusionConfig, fusion_weights
from toplora_train.adapters.gates import (
    fixed_gates,
    gate_statistics,
    gated_layers,
    gates_of,
    largest_gate,
)
from toplora_train.adapters.updates import adapted_layers, describe_update, place_of
from toplora_train.config.errors import UserError, one_line
from toplora_train.config.printable import printable
from toplora_train.config.schema import ForgettingSettings
from toplora_train.data.pixels import ImageReader
from toplora_train.data.texts import read_texts
from toplora_train.evaluation.decoding.prefix import common_prefix
from toplora_train.evaluation.forward import evaluating
from toplora_train.evaluation.predictions import Prediction, read_predictions
from toplora_train.evaluation.ranks import ALONE, Ranks
from toplora_train.models.sharded import gathered, is_sharded
from toplora_train.report import inspection as stored
from toplora_train.report.gain import gain
from toplora_train.run.assemble.scores import Scorer

MOST_TOKENS = 1000
"""Tokens that the gates' statistics are computed over."""
SHOWN_TEXTS, SHOWN_TOKENS = 4, 96
"""Texts of the tasks whose tokens are shown, and tokens of each text."""
GENERAL_CHARACTERS = 1000
"""Characters of each passage of general text."""
MOST_FUNCTIONS = 24
"""Modules whose functions GenLoRA's picture has."""


@dataclass(frozen=True)
class Text:
    """A text to compute gates for, its title, and whether it is always shown."""

    title: str
    text: str
    own: bool = False


@dataclass
class _Gates:
    """Gates gathered over texts: ``(tokens, r)`` pieces by layer, and rows of the table."""

    pieces: dict[str, list[Tensor]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    tokens: int = 0


def inspect_adapter(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    folder: Path,
    *,
    base: str,
    extras: bool,
    scorer: Scorer | None = None,
    weights: str = "",
) -> stored.Inspection:
    """Measure the active adapter and write the files of ``folder/inspection``.

    Args:
        model: A model with a loaded adapter; call it on every rank if ``scorer`` has several.
        tokenizer: Its tokenizer.
        texts: What gates are computed for.
        folder: The run, with the tuned model's ``predictions/``.
        base: The base model's name.
        extras: Whether to measure what takes long: scores with fixed gates, and decompositions of
            matrices of the weights' size.
        scorer: Scores the run's tasks; None scores nothing.
        weights: Identifies the adapter's weights, for resuming an interrupted scoring.
    """
    name = str(model.active_adapter)
    where, first = folder / stored.FOLDER, scorer is None or scorer.ranks.first
    layers = gated_layers(model, name)
    with evaluating(model):
        found = _read_gates(model, tokenizer, texts, name)
        fusion = _fusion_view(model, tokenizer, texts, name)
    means = {layer: torch.cat(pieces).double().mean(0) for layer, pieces in found.pieces.items()}
    fixed = replace(scorer, folder=where / "predictions") if scorer and means and extras else None
    if fixed is not None:
        _score_fixed(model, means, fixed, weights)
    updates, left_out = (
        _describe_updates(model, name, means, whole=extras)
        if first or is_sharded(model)
        else ([], {})
    )
    tensors = structure.tensors_of(model, name)
    inspection = stored.Inspection(
        adapter=str(model.peft_config[name].peft_type.value),
        base=base,
        updates=updates,
        left_out=left_out,
        extras=extras,
        gates=stored.GateView(
            tokens=found.tokens,
            texts=found.titles,
            modules=[
                stored.ModuleGates(
                    layer, **gate_statistics(torch.cat(pieces), largest_gate(layers[layer], name))
                )
                for layer, pieces in found.pieces.items()
            ],
            scores=_fixed_scores(folder, fixed) if first and fixed is not None else {},
        )
        if found.pieces
        else None,
        fusion=fusion,
        similarities=[
            stored.Matrix(**one)
            for one in structure.mode_similarities(tensors, structure.mode_names(model, name))
        ],
        energies=[stored.CoreEnergy(**one) for one in structure.core_energies(tensors)],
        functions={
            module: {matrix: stored.Functions(**one) for matrix, one in both.items()}
            for module, both in structure.described_functions(
                adapted_layers(model), name, most=MOST_FUNCTIONS
            ).items()
        },
    )
    if first:
        where.mkdir(parents=True, exist_ok=True)
        if found.rows:
            _write_table(where / stored.GATES, found.rows)
        stored.write_inspection(where, inspection)
    return inspection


def run_texts(folder: Path, tasks: Sequence[str], ranks: Ranks = ALONE) -> list[Text]:
    """The prompts of a run's test rows with the tuned model's answers, of all tasks in turn.

    Without answers: :func:`general_texts`. Call it on every rank.
    """
    return ranks.broadcast(_task_texts(folder, tasks) if ranks.first else [])


def _task_texts(folder: Path, tasks: Sequence[str]) -> list[Text]:
    paths = {task: folder / "predictions" / f"{task}.jsonl" for task in tasks}
    rows = {task: read_predictions(path) for task, path in paths.items() if path.is_file()}
    most = max(map(len, rows.values()), default=0)
    found = [
        Text(f"{task}, row {of_task[place].id}", _whole(of_task[place]))
        for place in range(min(most, MOST_TOKENS))
        for task, of_task in rows.items()
        if place < len(of_task)
    ]
    return found or general_texts()


def general_texts() -> list[Text]:
    """Passages of books in the public domain, for an adapter without tasks."""
    settings = ForgettingSettings(source="bundled:general_text/test.jsonl")
    rows = read_texts(settings, data_root=None).rows
    return [Text(f"general text {row.id}", row.output[:GENERAL_CHARACTERS]) for row in rows]


def _whole(answer: Prediction) -> str:
    """The prompt and the answer; a class or a number is no text that the model saw."""
    return answer.prompt + (
        "" if answer.scores and answer.output in answer.scores else answer.output
    )


def _read_gates(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], name: str
) -> _Gates:
    """Gates of the texts, the user's own first, until there are enough tokens.

    Statistics are over the other texts, so that they do not depend on what the user looks at. The
    tokens that all of these begin with are computed but neither counted nor shown.
    """
    found = _Gates()
    if not gated_layers(model, name):
        return found
    for text, tokens, skipped in _measured_texts(model, tokenizer, texts):
        gates = {
            module: values[skipped:] for module, values in gates_of(model, tokens, name).items()
        }
        if not text.own:
            for module, values in gates.items():
                found.pieces.setdefault(module, []).append(values)
            found.tokens += len(tokens) - skipped
        if text.own or len(found.titles) < SHOWN_TEXTS + sum(one.own for one in texts):
            shown = tokenizer.batch_decode([[token] for token in tokens[skipped:]])
            found.rows += [
                {"text": len(found.titles), "position": skipped + at, "token": token}
                | {"module": module, "gates": values[at].tolist()}
                for at, token in enumerate(shown[:SHOWN_TOKENS])
                for module, values in gates.items()
            ]
            found.titles.append(text.title)
    return found


def _fusion_view(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], name: str
) -> stored.FusionView | None:
    """The weights of the fused adapters over the texts' tokens; None without a fusion."""
    config = model.peft_config[name]
    if not isinstance(config, FusionConfig):
        return None
    pieces: dict[str, list[Tensor]] = {}
    for text, tokens, skipped in _measured_texts(model, tokenizer, texts):
        if not text.own:
            for layer, weights in fusion_weights(model, tokens, name).items():
                pieces.setdefault(layer, []).append(weights[skipped:].double())
    over_tokens = {layer: torch.cat(found) for layer, found in pieces.items()}
    return stored.FusionView(
        adapters=[printable(str(expert["name"])) for expert in config.experts],
        tokens=max(map(len, over_tokens.values()), default=0),
        layers=list(over_tokens),
        mean=[weights.mean(0).tolist() for weights in over_tokens.values()],
        deviation=[weights.std(0, correction=0).tolist() for weights in over_tokens.values()],
    )


def _measured_texts(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]
) -> Iterator[tuple[Text, list[int], int]]:
    """Each text, its token ids and the length of what all begin with, until enough are read."""
    if isinstance(tokenizer, ImageReader):  # no texts
        return
    longest = getattr(model.config, "max_position_embeddings", None) or MOST_TOKENS
    ordered = sorted(texts, key=lambda one: not one.own)
    ids = [_encode(tokenizer, one.text)[: min(longest, MOST_TOKENS)] for one in ordered]
    shared = len(common_prefix([i for i, one in zip(ids, ordered, strict=True) if not one.own]))
    measured = 0
    for text, tokens in zip(ordered, ids, strict=True):
        if measured >= MOST_TOKENS:
            return
        skipped = 0 if text.own else shared
        if len(tokens) > skipped:
            measured += 0 if text.own else len(tokens) - skipped
            yield text, tokens, skipped


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The token ids, with the special tokens of an ordinary text unless the text has them."""
    begins = bool(tokenizer.bos_token) and text.startswith(str(tokenizer.bos_token))
    ids: list[int] = tokenizer(text, add_special_tokens=not begins)["input_ids"]
    return ids


def _score_fixed(model: PeftModel, means: dict[str, Tensor], scorer: Scorer, weights: str) -> None:
    """Answer the tasks' rows with every gate at one, then at its mean."""
    for fixed, who, values in (("one", "gate at one", None), ("mean", "gate at its mean", means)):
        with fixed_gates(model, values, str(model.active_adapter)):
            scorer.score(model, who, weights=f"{weights} {who}", suffix=f".{fixed}")


def _fixed_scores(folder: Path, scorer: Scorer) -> dict[str, stored.FixedScore]:
    """The scores with fixed gates and the paired differences, from the stored predictions."""
    found = {}
    for task in (eval_set.name for eval_set in scorer.eval_sets):
        tuned = read_predictions(folder / "predictions" / f"{task}.jsonl")
        one, mean = (
            read_predictions(scorer.folder / f"{task}.{fixed}.jsonl") for fixed in ("one", "mean")
        )
        found[task] = stored.FixedScore(
            rows=len(tuned),
            tuned=_share_right(tuned),
            one=_share_right(one),
            mean=_share_right(mean),
            over_one=_difference(task, one, tuned),
            over_mean=_difference(task, mean, tuned),
        )
    return found


def _share_right(rows: Sequence[Prediction]) -> float:
    return sum(row.correct for row in rows) / len(rows)


def _difference(
    task: str, fixed: list[Prediction], tuned: list[Prediction]
) -> stored.PairedDifference:
    return stored.PairedDifference(**gain({task: (fixed, tuned)})["tasks"][task])


def _describe_updates(
    model: PeftModel, name: str, means: dict[str, Tensor], *, whole: bool
) -> tuple[list[stored.ModuleUpdate], dict[str, str]]:
    """The updates, and the modules that could not be described with the reason.

    Any method of PEFT may come here, and a picture must not stop a run that has finished training.
    """
    updates, left_out = [], {}
    layers = adapted_layers(model)
    for module, layer in layers.items():
        try:
            with gathered(model, layer):
                described = describe_update(layer, name, means.get(module), whole=whole)
        except UserError as error:  # the method has no such update
            left_out[module] = str(error)
        except Exception as error:
            left_out[module] = f"{type(error).__name__}: {one_line(error)}"
        else:
            updates.append(stored.ModuleUpdate(module, *place_of(module), **described))
    others = [
        other
        for other, layer in model.base_model.model.named_modules()
        if hasattr(layer, "base_layer") and other not in layers
    ]
    return updates, left_out | dict.fromkeys(others, "not a linear layer")


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa  # type: ignore[import-untyped]  # has no types; not before the first step
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # untyped in its package

    columns = {
        "text": pa.int32(),
        "position": pa.int32(),
        "token": pa.string(),
        "module": pa.string(),
        "gates": pa.list_(pa.float32()),
    }
    aside = path.with_name(f".{path.name}")
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items()))), aside)
    aside.replace(path)
