"""Two processes share the rows of a run's evaluation."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.processes import in_two_processes
from toplora_train import cli
from toplora_train.launch import evaluate

# Accelerate knows DDP's argument by its old name only.
pytestmark = pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning")
RUN = [
    "recipe=smoke",
    "launch.device=cpu",
    "trainer.max_steps=2",
    "evaluation.limit=9",
    "evaluation.batch_size=2",
    "output_dir=run",
]


@pytest.fixture
def like_a_worker() -> Iterator[None]:
    """One thread, as in the workers, because sums depend on it. Signal handlers are restored."""
    threads = torch.get_num_threads()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for number, handler in before.items():
        signal.signal(number, handler)


def trained_by_two(folder: Path) -> Path:
    """As by torchrun: both processes are given."""
    assert in_two_processes(folder, train_in, folder)
    return folder / "run"


def train_in(folder: Path) -> None:
    os.chdir(folder)
    sys.argv = ["toplora-train", *RUN]
    sys.exit(cli.main())


@pytest.mark.usefixtures("like_a_worker")
def test_two_processes_give_the_predictions_of_one_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = trained_by_two(tmp_path)
    assert len(list((run / "predictions").glob("*.jsonl"))) == 2
    assert json.loads((run / "report.json").read_text())["train"]["world_size"] == 2
    assert "4 of the 9 rows answered here" in (run / "train.rank1.log").read_text()

    # The same adapter, evaluated by one process.
    monkeypatch.setattr(sys, "argv", ["toplora-eval", f"run={run}"])
    assert evaluate.main() == 0
    for name in ("arithmetic.jsonl", "arithmetic.base.jsonl"):
        of_two = (run / "predictions" / name).read_bytes()
        of_one = (run / "evaluations" / "again" / "predictions" / name).read_bytes()
        assert of_two == of_one
        assert of_two.count(b"\n") == 9


@pytest.mark.slow
@pytest.mark.usefixtures("like_a_worker")
def test_two_processes_evaluate_again_to_the_predictions_of_one_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = trained_by_two(tmp_path)
    monkeypatch.setattr(sys, "argv", ["toplora-eval", f"run={run}", "limit=60", "name=alone"])
    assert evaluate.main() == 0
    shared = again(run, "limit=60", "name=shared")
    assert shared.returncode == 0, shared.stderr
    assert "process 1 of 2 25/30" in shared.stdout
    assert shared.stdout.count("report: ") == 1
    for name in ("arithmetic.jsonl", "arithmetic.base.jsonl"):
        of_one, of_two = (
            (run / "evaluations" / folder / "predictions" / name).read_bytes()
            for folder in ("alone", "shared")
        )
        assert of_two == of_one
        assert of_two.count(b"\n") == 60

    twice = again(run, "limit=60", "name=shared")
    assert twice.returncode == 2
    assert "holds a finished evaluation; choose another name=NAME" in twice.stderr
    assert twice.stderr.count("error: ") == 1


def again(run: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", evaluate.MODULE, f"run={run}", "processes=2", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
