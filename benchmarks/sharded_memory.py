"""Measure the memory of each process of a whole run under fsdp2, from loading to the reload check.

    python benchmarks/sharded_memory.py --folder DIR --processes 4

A random Llama of the given shape (1.1 billion parameters in bf16 by default) is written to
``DIR/weights``, and fine-tuned for five steps with its base scores, scores and reload check. The
same is done with the built-in tiny model, whose processes hold little but the libraries, for the
baseline. Every 20 ms the kernel's counters of each process are read from ``/proc``:

    anonymous   RssAnon, what the process allocated
    resident    VmHWM, the kernel's own maximum; it also counts pages of the files being read

Prints JSON, in bytes. ``above_baseline`` is the largest process's; ``allowed`` is the model divided
by the processes, plus the largest layer four times: gathered, in the collective's buffer, and in
the two copies that gloo makes (a GPU's NCCL makes none), plus the adapter with its gradients and
moments. The exit code is 1 if more was allocated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from toplora_train.models.layers import repeated_layers
from toplora_train.models.memory import TRAINED_BYTES
from toplora_train.models.tiny import tiny_config, tiny_tokenizer

COUNTERS = {"anonymous": "RssAnon", "resident": "VmHWM"}
COMMAND = [
    *(sys.executable, "-m", "toplora_train.cli", "adapter=lora", "launch=fsdp2"),
    "adapter.target_modules=all-linear",
    *("launch.device=cpu", "trainer.max_steps=5", "trainer.batch_size=4", "trainer.log_every=1"),
    *("trainer.micro_batch_size=1", "trainer.save_every=0", "evaluation.batch_size=1"),
    *("dataset=jsonl", "dataset.test_max_new_tokens=2", "dataset.prompt='{instruction} = '"),
]


def make_model(folder: Path, *, layers: int, hidden: int, dtype: torch.dtype) -> tuple[int, int]:
    """Write a random model; its bytes, and those of its largest layer, embedding included."""
    config = LlamaConfig(
        **{
            **tiny_config().to_dict(),
            "vocab_size": 32_000,
            "hidden_size": hidden,
            "intermediate_size": hidden * 11 // 4,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 64,
            "num_key_value_heads": max(1, hidden // 512),
            "head_dim": 64,
        }
    )
    torch.set_default_dtype(dtype)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="500MB")
    tiny_tokenizer().save_pretrained(folder)
    units = [*repeated_layers(model), model.get_input_embeddings()]
    return size_of(model), max(map(size_of, units))


def size_of(module: torch.nn.Module) -> int:
    """Bytes of the parameters."""
    return sum(parameter.nbytes for parameter in module.parameters())


def make_rows(folder: Path) -> list[str]:
    """Write twenty short rows to train on and four to test on; their words of a command."""
    words = []
    for name, numbers in (("train", range(20)), ("test", range(20, 24))):
        file = folder / f"{name}.jsonl"
        rows = [
            {"instruction": f"{number} + 1", "output": str(number + 1), "answer": str(number + 1)}
            for number in numbers
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        words.append(f"dataset.{name}={file}")
    return words


def measure(words: list[str], log: Path) -> dict[str, list[int]]:
    """Run the command; the maximum of each counter over its lifetime, by rank."""
    peaks: dict[str, dict[str, int]] = {name: {} for name in COUNTERS}
    with log.open("w") as output:
        command = subprocess.Popen(
            [*COMMAND, *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        ranks: dict[int, str] = {}
        while command.poll() is None:
            ranks |= {pid: rank for pid in descendants(command.pid) if (rank := rank_of(pid))}
            for pid, rank in ranks.items():
                for name, value in counters(pid).items():
                    peaks[name][rank] = max(value, peaks[name].get(rank, 0))
            time.sleep(0.02)
    if command.returncode:
        raise SystemExit(log.read_text())
    return {name: [found[rank] for rank in sorted(found)] for name, found in peaks.items()}


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, directly or not."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [one for child in map(int, children) for one in (child, *descendants(child))]


def rank_of(pid: int) -> str | None:
    """The rank of a worker process; None for others."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    found = [entry for entry in environment if entry.startswith(b"RANK=")]
    return found[0].decode().removeprefix("RANK=") if found else None


def counters(pid: int) -> dict[str, int]:
    """A process's counters, in bytes; empty once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    values = dict(line.split(":", 1) for line in lines)
    return {
        name: int(values[key].split()[0]) * 1024 for name, key in COUNTERS.items() if key in values
    }


def main() -> None:
    """Measure as the command line says, and print the result."""
    parser = argparse.ArgumentParser(description="Memory of a run under fsdp2, per process.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    given = parser.parse_args()
    folder = given.folder.resolve()
    model, layer = make_model(
        folder / "weights",
        layers=given.layers,
        hidden=given.hidden,
        dtype=getattr(torch, given.dtype),
    )
    runs = {
        "baseline": ["model=tiny"],
        "model": [
            *("model=smollm2_135m", "model.package=null"),
            *(f"model.path={folder / 'weights'}", f"model.dtype={given.dtype}"),
        ],
    }
    rows, found = make_rows(folder), {}
    for name, words in runs.items():
        place = [f"launch.processes={given.processes}", f"output_dir={folder / name}"]
        found[name] = measure([*words, *rows, *place], folder / f"{name}.log")
    above = {
        counter: max(found["model"][counter]) - max(found["baseline"][counter])
        for counter in COUNTERS
    }
    report = json.loads((folder / "model" / "report.json").read_text())
    trained = TRAINED_BYTES * report["adapter"]["trainable_parameters"]
    allowed = model // given.processes + 4 * layer + trained
    result = {
        "model": model,
        "largest_layer": layer,
        "processes": found,
        "above_baseline": above,
        "allowed": allowed,
    }
    print(json.dumps(result, indent=2))
    sys.exit(above["anonymous"] > allowed)


if __name__ == "__main__":
    main()
