"""Two real processes share the rows of a run's evaluation."""

import json
import os
import subprocess
import sys
from pathlib import Path


def command(folder: Path, module: str, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOPLORA_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


def test_two_processes_give_the_predictions_of_one_byte_for_byte(tmp_path: Path):
    command(
        tmp_path,
        "toplora_train.cli",
        "recipe=smoke",
        "launch.processes=2",
        "launch.device=cpu",
        "trainer.max_steps=2",
        "evaluation.limit=9",
        "evaluation.batch_size=2",
        "output_dir=run",
    )
    # The same adapter, asked by one process.
    again = "import sys; from toplora_train.launch.evaluate import main; sys.exit(main())"
    (tmp_path / "again.py").write_text(again)
    command(tmp_path, "again", "run=run")
    for name in ("arithmetic.jsonl", "arithmetic.base.jsonl"):
        of_two = (tmp_path / "run" / "predictions" / name).read_bytes()
        of_one = (tmp_path / "run" / "evaluations" / "again" / "predictions" / name).read_bytes()
        assert of_two == of_one
        assert of_two.count(b"\n") == 9
    assert len(list((tmp_path / "run" / "predictions").iterdir())) == 2
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["train"]["world_size"] == 2
    other = (tmp_path / "run" / "train.rank1.log").read_text()
    assert "answered 4 of the 9 rows here" in other
    first = (tmp_path / "run" / "train.log").read_text()
    assert "the tokens of the training rows: encoded now" in first
    assert "the tokens of the training rows: from the cache" in other
