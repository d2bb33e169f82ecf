"""A standard output that is closed, full or gone stops nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from rich.console import Console
from toplora_train.launch.output import survive_lost_output
survive_lost_output()
survive_lost_output()
console = Console()
first = open(sys.argv[1], "w")
for number in range(1_000):
    console.print(f"line {number}")
    print("line", number)
    print("line", number, file=sys.stderr)
first.write(f"done, as file {first.fileno()}")
"""


@pytest.mark.parametrize(
    "end", ["| head -n 1", ">&-", "> /dev/full", "2> /dev/full", ">&- 2>&- <&-"]
)
def test_a_lost_output_stops_nothing(tmp_path: Path, end: str):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = f"set -o pipefail; {sys.executable} program.py done {end}"
    ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr[-500:]
    assert b"Traceback" not in ended.stderr
    done, number = (tmp_path / "done").read_text().split(", as file ")
    assert done == "done"
    assert int(number) > 2  # else a library would print into it


def test_output_that_is_not_lost_is_unchanged(tmp_path: Path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py", "done"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert len(ended.stdout.splitlines()) == 2_000
    assert len(ended.stderr.splitlines()) == 1_000
