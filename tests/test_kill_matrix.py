"""A run of two epochs, killed at forty random moments, ends with the same bytes as without a kill.

And the launchers that people have instead of ours: torchrun and ``accelerate launch``.
"""

import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from toplora_train.train.checkpoint import newest_checkpoint

RUN = [
    "recipe=smoke",
    "dataset.limit=32",
    "trainer.batch_size=2",
    "trainer.micro_batch_size=1",
    "trainer.max_steps=32",  # 16 are an epoch
    "trainer.save_every=1",  # half of the time goes into writing
    "adapter.dropout=0.1",
    "evaluation.base=false",
    "evaluation.limit=1",
    "launch.device=cpu",
    "output_dir=run",
]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "toplora_train.cli", *RUN, *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(grandchild for child in children for grandchild in descendants(int(child)))]


def kill_after(folder: Path, step: int, chance: random.Random, *arguments: str) -> str:
    """Kill one of the run's processes a moment after ``step`` was shown."""
    with start(folder, *arguments) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= step:
                time.sleep(chance.uniform(0, 0.06))
                everyone = descendants(process.pid)
                if everyone:
                    os.kill(chance.choice(everyone), signal.SIGKILL)
                break
        return process.stdout.read()


def interrupt_after(folder: Path, step: int, *arguments: str) -> str:
    """Interrupt the run once ``step`` was shown; return its output."""
    with start(folder, *arguments) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= step:
                process.send_signal(signal.SIGTERM)
                break
        output = process.stdout.read()
    assert process.returncode == 143, output
    return output


def finish(folder: Path, *arguments: str) -> str:
    """Run to completion; a killed parent's workers hold the directory until they notice."""
    for _ in range(40):
        with start(folder, *arguments) as process:
            assert process.stdout is not None
            output = process.stdout.read()
        if "is in use by" not in output:
            break
        time.sleep(0.5)
    assert process.returncode == 0, output
    return output


def weights(folder: Path) -> bytes:
    return (folder / "run" / "adapter" / "adapter_model.safetensors").read_bytes()


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [(row["step"], row["loss"]) for row in map(json.loads, lines)]


LAUNCHES = {
    "one process": ["launch.processes=1"],
    "ddp": ["launch=ddp", "launch.processes=2", "launch.device=cpu"],
    "fsdp2": ["launch=fsdp2", "launch.processes=2", "launch.device=cpu"],
}
VICTIMS = ("parent", "worker", "both")
KILLS, STEPS = 40, 32
AT_START, AT_END = 8, 4  # of them: before the first step, and after the last


def matching(folder: Path, whole: Path) -> str:
    """The newest checkpoint, whose bytes are those that the whole run saved at the same step."""
    newest = newest_checkpoint(folder / "run" / "checkpoints")
    if newest is None:
        return "none yet"
    same = whole / "run" / "checkpoints" / newest.name
    for file in sorted(newest.glob("*.safetensors")):
        assert file.read_bytes() == (same / file.name).read_bytes(), file
    return newest.name


def step_of(line: str) -> int:
    """The step that a line of the output says is done, or -1."""
    found = re.search(r"^step (\d+)/|resuming after step (\d+)", line)
    return int(found[1] or found[2]) if found else -1


def kill(folder: Path, victim: str, step: int, wait: float, *arguments: str) -> bool:
    """Kill the victim some seconds after the step (0: the start); whether it was still running.

    Every other process must end by itself.
    """
    with start(folder, *arguments) as process:
        assert process.stdout is not None
        if step and not any(step_of(line) >= step for line in process.stdout):
            return False
        time.sleep(wait)
        everyone = descendants(process.pid)
        if process.poll() is not None or not everyone:
            return False
        worker = (
            everyone[int(wait * 1e6) % (len(everyone) - 1) + 1] if everyone[1:] else everyone[0]
        )
        chosen = {"parent": {process.pid}, "worker": {worker}, "both": {process.pid, worker}}
        for pid in chosen[victim]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        output = process.stdout.read()  # until the last process has closed it
        assert "is damaged" not in output, output
    return True


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("launch", LAUNCHES)
def test_killed_at_forty_random_moments_a_run_ends_byte_for_byte_the_same(tmp_path, launch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    began = time.monotonic()
    with start(whole, *LAUNCHES[launch], "trainer.keep=99") as process:
        assert process.stdout is not None
        shown = {step_of(line): time.monotonic() - began for line in process.stdout}
    assert process.returncode == 0
    to_first, after_last = shown[1], time.monotonic() - began - shown[STEPS]
    chance = random.Random(launch)
    between = sorted(chance.choices(range(1, STEPS), k=KILLS - AT_START - AT_END))
    moments = [
        *((0, chance.uniform(0, to_first)) for _ in range(AT_START)),
        *((step, chance.uniform(0, 0.1)) for step in between),
        *((STEPS, chance.uniform(0, 0.7 * after_last)) for _ in range(AT_END)),
    ]
    kills = 0
    for (step, wait), victim in zip(moments, itertools.cycle(VICTIMS)):
        if not kill(killed, victim, step, wait, *LAUNCHES[launch], "resume=auto"):
            break
        kills += 1
        newest = matching(killed, whole)
        print(f"{launch}: {victim} {wait:.2f} s after step {step}: checkpoint {newest}", flush=True)
    finish(killed, *LAUNCHES[launch], "resume=auto")
    assert weights(killed) == weights(whole)
    assert losses(killed) == losses(whole)
    assert "is damaged" not in (killed / "run" / "train.log").read_text()
    assert kills >= KILLS - AT_END, f"only {kills} kills met a running process"
    print(f"{launch}: byte-equal after {kills} kills", flush=True)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fsdp2", "zero2"])
def test_sharded_an_interrupted_and_a_killed_run_end_byte_for_byte_the_same(tmp_path, engine):
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    whole.mkdir()
    ended.mkdir()
    launch = [f"launch={engine}", "launch.processes=2", "launch.device=cpu"]
    finish(whole, *launch)
    line = interrupt_after(ended, 9, *launch).splitlines()[-1]
    newest = max(path.name for path in (ended / "run" / "checkpoints").glob("step-*"))
    assert line.endswith(f"; {newest} is saved; continue with the same command and resume=auto")
    kill_after(ended, 20, random.Random(1), *launch, "resume=auto")
    finish(ended, *launch, "resume=auto")
    assert weights(ended) == weights(whole)
    assert losses(ended) == losses(whole)


@pytest.mark.slow
def test_another_number_of_processes_resumes_with_the_same_rows(tmp_path):
    """Without dropout the number changes nothing else."""
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    whole.mkdir()
    moved.mkdir()
    finish(whole, "adapter.dropout=0")
    kill_after(moved, 9, random.Random(1), "adapter.dropout=0", "launch.processes=2")
    output = finish(moved, "adapter.dropout=0", "launch.processes=1", "resume=auto")
    assert "resuming after step" in output
    log = (moved / "run" / "train.log").read_text()
    assert "the checkpoint was saved by 2 processes, this run has 1" in log
    for (_, one), (_, other) in zip(losses(whole), losses(moved), strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    tensors = [load_file(f / "run/adapter/adapter_model.safetensors") for f in (whole, moved)]
    for key, tensor in tensors[0].items():
        torch.testing.assert_close(tensors[1][key], tensor, rtol=0, atol=1e-5)


# Accelerate starts several processes on a CPU through MPI only, or as if there were GPUs.
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node=2", "--local-addr=localhost"],
    "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_other_launchers_run_the_command_in_place(tmp_path, launcher):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    finish(ours, "launch.processes=2")
    done = subprocess.run(
        [sys.executable, *LAUNCHERS[launcher], "-m", "toplora_train.cli", *RUN],
        cwd=theirs,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 32/32") == 1
    report = json.loads((theirs / "run" / "report.json").read_text())
    assert report["train"]["world_size"] == 2
    # Each launcher may give its processes another number of threads, which sum in another order.
    for (_, one), (_, other) in zip(losses(ours), losses(theirs), strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    assert (theirs / "run" / "train.rank1.log").is_file()
