"""Every reader of files from outside: the real files it reads, and the function that reads them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.config.example import run_config
from tests.report.inspected import inspected
from tests.report.made_up import made_up_metrics, made_up_predictions, made_up_report
from tests.report.run_folders import run_folder
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.adapters.start_from import check_start
from toplora_train.config.compose import load_yaml
from toplora_train.config.json_file import write_json_atomically
from toplora_train.config.resolved import read_config, write_config
from toplora_train.data.cache import load_or_encode
from toplora_train.data.encode import Example
from toplora_train.data.files import read_file, read_folder
from toplora_train.data.formats.gsm8k import parse as parse_gsm8k
from toplora_train.data.labels import parse_labelled
from toplora_train.data.overflow import Encoded
from toplora_train.data.pixels import ImageReader, encode_images
from toplora_train.data.renamed import parse_renamed
from toplora_train.data.rows import content_hash, parse_row
from toplora_train.data.sources import read_rows
from toplora_train.evaluation.predictions import (
    PredictionFile,
    read_predictions,
    unfinished_predictions,
)
from toplora_train.models.load import load_model, load_tokenizer
from toplora_train.models.locate import locate_model
from toplora_train.models.tiny import tiny_model, tiny_tokenizer
from toplora_train.report.archive import Found, read_runs, write_archive
from toplora_train.report.comparison import compare_runs
from toplora_train.report.jobs import Unfinished
from toplora_train.report.metrics_file import MetricsFile, read_metrics
from toplora_train.report.pages import render_html, render_markdown, write_inspection_page
from toplora_train.report.record import read_report, write_report
from toplora_train.report.runs import find_runs
from toplora_train.run.fit.best_checkpoint import _read as read_judged
from toplora_train.run.questions import read_questions
from toplora_train.study.folder import Study
from toplora_train.train.checkpoint import (
    MANIFEST,
    TrainState,
    load_checkpoint,
    newest_checkpoint,
    read_state,
    save_checkpoint,
)
from toplora_train.train.optimizer import build_optimizer

ROW = {"instruction": "Is 3 > 2?", "input": "", "output": "Yes.", "answer": "yes", "id": 7}
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
LORA = {"name": "lora", "r": 4}


@dataclass(frozen=True)
class Reader:
    """A kind of file: how a valid one is written into a folder, and how the folder is read."""

    write: Callable[[Path], object]
    read: Callable[[Path], object]


def _save_to_disk(folder: Path) -> None:
    """The files of ``datasets``' ``save_to_disk`` that hold rows."""
    table = pa.table({"instruction": ["1+1?"], "output": ["2"]})
    with pa.ipc.new_stream(folder / "data.arrow", table.schema) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')


def _rows(suffix: str) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        for record in read_file(folder / f"rows.{suffix}"):
            fields, place = record.fields, record.place
            content_hash([parse_row(fields, place=place, default_id=record.default_id)])

    return read


def _parsed(parse: Callable[..., object], **how: object) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        for record in read_file(folder / "rows.jsonl"):
            parse(record.fields, place=record.place, default_id=record.default_id, **how)

    return read


def _write_lines(*rows: object) -> Callable[[Path], object]:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return lambda folder: (folder / "rows.jsonl").write_text(lines)


def _write_image(folder: Path) -> None:
    (folder / "cat").mkdir()
    PIL.Image.new("RGB", (9, 7), "red").save(folder / "cat" / "1.png")


def _read_images(folder: Path) -> None:
    processor = ViTImageProcessorPil(size={"height": 4, "width": 4})
    parse = partial(
        parse_labelled, text="", text_pair=None, image="image", label="label", choices=("cat",)
    )
    rows = read_rows(str(folder), parse=parse).rows
    encode_images(ImageReader(processor, channels=3), rows, choices=("cat",))


def _write_parquet(folder: Path) -> None:
    table = pa.table({"instruction": ["a", "b"], "answer": ["1", None], "id": [1, 2]})
    pq.write_table(table, folder / "rows.parquet")


def _write_partial(folder: Path) -> None:
    with PredictionFile(folder / "task.jsonl") as file:
        for one in made_up_predictions(1, 1):
            file.add(one)


def _write_predictions(folder: Path) -> None:
    with PredictionFile(folder / "task.jsonl") as file:
        file.finish(made_up_predictions(1, 1))


def _read_report(folder: Path) -> None:
    report = read_report(folder / "report.json")
    if report.get("status") == "completed":
        render_markdown(report, {})
        render_html(report | {"tasks": {}}, [], {})


def _write_metrics(folder: Path) -> None:
    with MetricsFile(folder / "metrics.jsonl") as file:
        for row in made_up_metrics(2):
            file.append(row)


def _read_metrics(folder: Path) -> None:
    read_metrics(folder / "metrics.jsonl")
    MetricsFile(folder / "metrics.jsonl", resumed_step=10).close()


def _adapted() -> PeftModel:
    return attach_adapter(tiny_model(), LORA, seed=1)


def _optimizer(model: PeftModel) -> torch.optim.Optimizer:
    return build_optimizer(model, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)


def write_checkpoint(folder: Path, step: int = 1) -> Path:
    """A checkpoint after one step of a small adapter."""
    model = _adapted()
    optimizer = _optimizer(model)
    model(torch.tensor([[2, 3, 4]])).logits.square().mean().backward()
    optimizer.step()
    return save_checkpoint(
        folder,
        model=model,
        optimizer=optimizer,
        accelerator=Accelerator(cpu=True),
        state=TrainState(step=step, settings={"a.b": 1}),
        keep=9,
    )


def read_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint, after it was loaded as a resumed run loads it."""
    checkpoint = newest_checkpoint(folder)
    if checkpoint is not None:
        read_state(checkpoint)
        model = _adapted()
        load_checkpoint(
            checkpoint,
            model=model,
            optimizer=_optimizer(model),
            accelerator=Accelerator(cpu=True),
        )
    return checkpoint


def _resealed(folder: Path) -> None:
    """Read a checkpoint whose manifest has the checksums of the files as they are now."""
    for checkpoint in folder.glob("step-*"):
        files = [file for file in sorted(checkpoint.iterdir()) if file.name != MANIFEST]
        digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        (checkpoint / MANIFEST).write_text(json.dumps(digests))
    read_checkpoint(folder)


CACHED = Encoded((Example((5, 6, 700), 1), Example((8,), 0)), (0, 3), truncated_rows=1)


def _read_tokens(folder: Path) -> None:
    """Read cached tokens whose checksum is right whatever the rest is."""
    content = (folder / "tokens").read_bytes()[32:]
    (folder / "tokens").write_bytes(hashlib.sha256(content).digest() + content)
    load_or_encode(folder / "tokens", Example, lambda: [CACHED])


def _write_study(folder: Path) -> None:
    study = Study(folder)
    (job,) = study.place([("seed=1", run_config())])
    study.write({"time": "2026-01-01", "command": ["seed=1"]}, [job], {"model": ["tiny"]})
    study.record(job, "started")
    study.record(job, "ended", exit_code=0, error=None, seconds=1.5, value=0.25)


def _read_study(folder: Path) -> None:
    study = Study(folder)
    study.validate_same_study({"model": ["other", "tiny"]})
    study.place([("seed=2", run_config(seed=2))])
    study.jobs()


def _write_model(folder: Path) -> None:
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def _read_model(folder: Path) -> None:
    found = locate_model(path=str(folder), revision=None, package=None, builtin=None)
    load_tokenizer(found)
    load_model(found, dtype="float32")


def _write_archive(folder: Path) -> None:
    for seed, kind in ((1, "generate"), (2, "generate")):
        run_folder(folder / f"{seed}", seed=seed, kind=kind, held_out=0.5)
    runs = find_runs([folder])
    failed = Unfinished("lora", "failed", "", "", tuning=True, rate=1.0, like=runs[0].folder)
    found = Found(runs, runs[:1], [failed])
    write_archive(folder / "S.json", found, ["toplora-train -m recipe=smoke"])
    for seed in (1, 2):
        shutil.rmtree(folder / f"{seed}")


def _read_archive(folder: Path) -> None:
    found = read_runs([folder / "S.json"])
    compare_runs(found.runs, tuning=found.tuning, unfinished=found.unfinished)


READERS = {
    "rows.jsonl": Reader(_write_lines(ROW, {"messages": TURNS}), _rows("jsonl")),
    "rows.json": Reader(
        lambda folder: (folder / "rows.json").write_text(json.dumps([ROW, ROW])), _rows("json")
    ),
    "rows.parquet": Reader(_write_parquet, _rows("parquet")),
    "rows.csv": Reader(
        lambda folder: (folder / "rows.csv").write_text('instruction,output\n"a ""b""",c\n'),
        _rows("csv"),
    ),
    "saved rows": Reader(_save_to_disk, lambda folder: list(read_folder(folder, split="train"))),
    "gsm8k": Reader(
        _write_lines({"question": "1+1?", "answer": "It is <<1+1=2>>2.\n#### 2"}),
        _parsed(parse_gsm8k),
    ),
    "renamed": Reader(
        _write_lines({"q": "1+1?", "a": 2, "hint": "add"}),
        _parsed(
            parse_renamed, names={"instruction": "q", "answer": "a"}, prompt="{hint}: {instruction}"
        ),
    ),
    "labelled": Reader(
        _write_lines({"text": "good", "label": 1}, {"text": "bad", "label": "neg"}),
        _parsed(parse_labelled, text="text", text_pair=None, label="label", choices=("neg", "pos")),
    ),
    "regression": Reader(
        _write_lines({"text": "good", "label": 1.5}, {"text": "bad", "label": "-2"}),
        _parsed(parse_labelled, text="text", text_pair=None, label="label", choices=()),
    ),
    "images": Reader(_write_image, _read_images),
    "questions": Reader(
        _write_lines({"question_id": 81, "category": "math", "turns": ["1+1?", "Sure?"]}),
        lambda folder: read_questions(str(folder / "rows.jsonl"), None),
    ),
    "config.yaml": Reader(
        lambda folder: write_config(run_config(), folder / "config.yaml"),
        lambda folder: read_config(folder / "config.yaml"),
    ),
    "recipe": Reader(
        lambda folder: (folder / "recipe.yaml").write_text(
            "# @package _global_\ndefaults:\n  - override /adapter: lora\nadapter:\n  r: 8\n"
        ),
        lambda folder: load_yaml(folder / "recipe.yaml"),
    ),
    "predictions": Reader(
        _write_predictions, lambda folder: read_predictions(folder / "task.jsonl")
    ),
    "partial predictions": Reader(
        _write_partial, lambda folder: unfinished_predictions(folder / "task.jsonl")
    ),
    "report.json": Reader(
        lambda folder: write_report(folder / "report.json", made_up_report()), _read_report
    ),
    "archive": Reader(_write_archive, _read_archive),
    "inspection": Reader(inspected, write_inspection_page),
    "metrics.jsonl": Reader(_write_metrics, _read_metrics),
    "judged.json": Reader(
        lambda folder: write_json_atomically(
            folder / "judged.json", [{"step": 1, "epoch": 0.5, "value": 0.25}]
        ),
        lambda folder: read_judged(folder / "judged.json"),
    ),
    "adapter": Reader(
        lambda folder: save_adapter(_adapted(), folder),
        lambda folder: load_adapter(tiny_model(), folder),
    ),
    "start_from": Reader(
        lambda folder: save_adapter(_adapted(), folder),
        lambda folder: check_start(tiny_model(), LORA, folder, same_task=False),
    ),
    "checkpoint": Reader(write_checkpoint, read_checkpoint),
    "resealed checkpoint": Reader(write_checkpoint, _resealed),
    "tokens": Reader(
        lambda folder: load_or_encode(folder / "tokens", Example, lambda: [CACHED]), _read_tokens
    ),
    "study": Reader(_write_study, _read_study),
    "base model": Reader(_write_model, _read_model),
}
"""The readers by the name in the table of the architecture page."""
