import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from toplora_train.config.locate import options


def test_every_engine_is_an_option_of_launch():
    assert set(options("launch")) == {"local", "ddp", "fsdp2", "zero2", "zero3"}


TASK = """# @package task.mine
# a word decides
name: mine
source: dev.jsonl
kind: classify
choices: ["no", "yes"]
"""


def run(folder: Path, engine: str, *words: str) -> None:
    """Train in ``folder/ENGINE`` as a user would."""
    command = [sys.executable, "-m", "toplora_train.cli", *words, "launch.device=cpu"]
    done = subprocess.run(
        [*command, f"launch={engine}", f"output_dir={engine}"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_a_sharded_head_is_selected_at_the_same_epoch_as_with_ddp(tmp_path: Path):
    """The head is trained and evaluated in shards, and saved unsharded."""
    (tmp_path / "own" / "task").mkdir(parents=True)
    (tmp_path / "own" / "task" / "mine.yaml").write_text(TASK)
    for name, count in (("train", 48), ("dev", 8)):
        rows = [
            {"text": f"{name} {number} " + ("bad", "good")[number % 2], "label": number % 2}
            for number in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["--config-dir", "own", "model=tiny", "dataset=jsonl", "dataset.train=train.jsonl"]
    words += ["task=[mine]", "trainer.epochs=2", "dataset.validation_rows=8"]
    words += ["trainer.batch_size=8", "dataset.max_length=64"]
    engines = ("ddp", "fsdp2", "zero2")
    for engine in engines:
        run(tmp_path, engine, *words, "launch.processes=2")
    judged, tensors = (
        [read(tmp_path / engine / where) for engine in engines]
        for read, where in (
            (Path.read_text, "checkpoints/selected/judged.json"),
            (load_file, "adapter/adapter_model.safetensors"),
        )
    )
    assert judged[0] == judged[1] == judged[2]
    for key, tensor in tensors[0].items():
        for shared in tensors[1:]:
            torch.testing.assert_close(shared[key], tensor, rtol=0, atol=1e-6, msg=key)


@pytest.mark.slow
def test_a_base_in_four_bits_is_trained_alike_by_every_engine(tmp_path: Path):
    pytest.importorskip("bitsandbytes", reason="needs the extra quant")
    words = ["recipe=smoke", "model.quantization=4bit", "trainer.max_steps=4", "task=[]"]
    words += ["adapter.dropout=0"]
    for engine, processes in (("local", 1), ("ddp", 2), ("zero2", 2), ("zero3", 2)):
        run(tmp_path, engine, *words, f"launch.processes={processes}")
    file = "adapter/adapter_model.safetensors"
    alone = load_file(tmp_path / "local" / file)
    for engine in ("ddp", "zero2", "zero3"):
        for key, tensor in load_file(tmp_path / engine / file).items():
            torch.testing.assert_close(tensor, alone[key], rtol=0, atol=1e-6, msg=key)


@pytest.mark.slow
def test_no_process_allocates_more_than_its_shard_and_copies_of_a_layer(tmp_path: Path):
    """From loading to the reload check; the benchmark exits with 1 otherwise."""
    script = Path(__file__).parents[2] / "benchmarks" / "sharded_memory.py"
    shape = ["--processes", "2", "--layers", "8", "--hidden", "1024", "--dtype", "float32"]
    done = subprocess.run(
        [sys.executable, str(script), "--folder", str(tmp_path), *shape],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
