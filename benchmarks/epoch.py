"""Measure an epoch of fine-tuning beside transformers' Trainer with LLM-Adapters' collator.

    python benchmarks/epoch.py [--train FILE] [--rows 1024] [--repeats 1] [--out FILE]
    python benchmarks/epoch.py --model FOLDER --dtype bfloat16     # where there is a CUDA device
    python benchmarks/epoch.py ... trainer.compile=inductor        # settings of this package

Both train the same LoRA (r 8, q k v, dropout 0.05, its factors in float32) on the same encoded
rows of ``FILE`` for one epoch in steps of 16 rows, at the same learning rate and schedule, in turn,
each in a process of its own: this package's command path with its defaults (rows grouped by length,
logits at supervised tokens, the fused update), and Trainer with PEFT's layers and
DataCollatorForSeq2Seq padding random batches to a multiple of 8, as LLM-Adapters' and most public
scripts do. Timed is the training alone, in processor seconds of one thread (``OMP_NUM_THREADS=1``)
and by the clock, which counts on a CUDA device. Memory is the peak during training above what was
taken before it: on a CPU the kernel's of the resident set, on a CUDA device the allocator's.

Parity: loss per supervised token of the first 32 rows, one row at a time, by this package's loss
and by the model's own on the collator's batch, on the trained adapter. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

BATCH, MAX_LENGTH, LR, PARITY_ROWS = 16, 256, 3e-4, 32
SIDES = ("trainer", "ours")
CUDA = torch.cuda.is_available()


def resident(field: str) -> int:
    """A field of the kernel's account of this process (``VmRSS``, ``VmHWM``), in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


class Measured:
    """Times and memory of what runs inside ``with``."""

    def __enter__(self) -> Measured:
        if CUDA:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            self.before = resident("VmRSS")
        self.faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        self.cpu, self.clock = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        if CUDA:
            torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() if CUDA else resident("VmHWM")
        self.result = {
            "processor_s": round(time.process_time() - self.cpu, 2),
            "clock_s": round(time.perf_counter() - self.clock, 2),
            "peak_mib_above": round((peak - self.before) / 2**20),
            "page_faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - self.faults,
        }


def configuration(arguments: argparse.Namespace, folder: Path) -> Any:
    from toplora_train.config.keywords import compose_run

    model = [f"model={arguments.model}"]
    if Path(arguments.model).is_dir():
        model = ["model=tiny", "model.builtin=null", f"model.path={arguments.model}"]
    return compose_run(
        [
            *model,
            f"model.dtype={arguments.dtype}",
            "dataset=jsonl",
            f"dataset.train={arguments.train}",
            f"dataset.limit={arguments.rows}",
            f"dataset.max_length={MAX_LENGTH}",
            "dataset.overflow=drop",
            "adapter=lora",
            "adapter.r=8",
            "adapter.dropout=0.05",
            f"optimizer.lr={LR}",
            "trainer.epochs=1",
            f"trainer.batch_size={BATCH}",
            f"trainer.micro_batch_size={BATCH}",
            "trainer.mixed_precision=no",
            "evaluation.enabled=false",
            "tracker=none",
            f"output_dir={folder}",
            *arguments.overrides,
        ],
        [],
    )


def ours(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A whole run; its training is measured."""
    from toplora_train.run import finetune

    config, measured, train = configuration(arguments, folder), Measured(), finetune.fine_tune

    def fine_tune(*args: Any, **kwargs: Any) -> Any:
        with measured:
            return train(*args, **kwargs)

    finetune.fine_tune = fine_tune
    finetune.run(config, folder)
    return measured.result


def trainer(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Trainer on the rows that :func:`ours` encodes, and the parity of the two losses."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from toplora_train.run.prepare.objective import load_base
    from toplora_train.run.prepare.run_data import prepare

    config = configuration(arguments, folder)
    rows = prepare(config)
    model = load_base(config, rows.location, None)
    settings = LoraConfig(
        r=8, lora_alpha=16, lora_dropout=0.05, target_modules=["q_proj", "k_proj", "v_proj"]
    )
    adapted = get_peft_model(model, settings)
    collator = DataCollatorForSeq2Seq(rows.tokenizer, pad_to_multiple_of=8, padding=True)
    examples = [
        {
            "input_ids": list(row.input_ids),
            "attention_mask": [1] * len(row.input_ids),
            "labels": [-100] * row.prompt_length + list(row.input_ids[row.prompt_length :]),
        }
        for row in rows.train
    ]
    training = Trainer(
        adapted,
        TrainingArguments(
            str(folder / "trainer"),
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=LR,
            lr_scheduler_type="cosine",
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            use_cpu=not CUDA,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(examples),
        data_collator=collator,
    )
    measured = Measured()
    with measured:
        training.train()
    return measured.result | {
        "rows": len(examples),
        "largest_loss_difference": parity(
            adapted.eval(), rows.train[:PARITY_ROWS], rows.objective, collator, examples
        ),
    }


@torch.no_grad()
def parity(
    model: torch.nn.Module,
    rows: Any,
    objective: Any,
    collator: Callable[..., Any],
    examples: list[dict[str, Any]],
) -> float:
    """The largest difference between two computations of the rows' losses per token."""
    device = next(model.parameters()).device
    return max(
        abs(
            float(objective.loss(model, objective.collate([row]), device)) / row.supervised
            - float(model(**collator([dict(example)]).to(device)).loss)
        )
        for row, example in zip(rows, examples, strict=False)
    )


def main() -> None:
    """Run the sides alternately, each in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", default="bundled:arithmetic/train.jsonl")
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--dtype", default="float32", help="of the base model")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("overrides", nargs="*", help="settings; of data and model: for both")
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.side:
            found = {"trainer": trainer, "ours": ours}[arguments.side](arguments, Path(folder))
            arguments.out.write_text(json.dumps(found))
            return
        sides: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for side in SIDES * arguments.repeats:
            out = Path(folder) / "side.json"
            mine = ["--side", side, "--out", str(out)]  # of an option given twice the last counts
            command = [sys.executable, __file__, *sys.argv[1:], *mine]
            # This package requests huge pages; a script around Trainer has torch's default.
            pages = {"THP_MEM_ALLOC_ENABLE": "0"} if side == "trainer" else {}
            subprocess.run(command, check=True, stdout=sys.stderr, env=os.environ | pages)
            sides[side].append(json.loads(out.read_text()))
            print(side, sides[side][-1], file=sys.stderr, flush=True)
    least = {
        side: {key: min(one[key] for one in found) for key in found[0]}
        for side, found in sides.items()
    }
    clock = "clock_s" if CUDA else "processor_s"
    report = {
        "device": torch.cuda.get_device_name() if CUDA else "cpu",
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "sides": sides,
        "times_faster": round(least["trainer"][clock] / least["ours"][clock], 2),
        "memory": round(least["ours"]["peak_mib_above"] / least["trainer"]["peak_mib_above"], 2),
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
