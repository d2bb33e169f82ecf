"""Whatever a file holds, a reader returns or raises a ``UserError`` of one printable line.

``FUZZ_SECONDS=600 pytest tests/fuzz`` (or ``make fuzz``) looks for such files for a set time, which
the readers share; without it each reader gets a few examples, the same ones every time.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import changed_file
from tests.fuzz.readers import READERS
from toplora_train.config.errors import UserError
from toplora_train.config.printable import printable

SECONDS = float(os.environ.get("FUZZ_SECONDS", 0))
SLOWEST = 60  # seconds of one example
QUICK = {"adapter", "start_from", "checkpoint", "resealed checkpoint", "base model"}


def check(read, folder: Path) -> bool:
    """Read the folder; whether it was accepted."""
    began = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about what they were given
            read(folder)
    except UserError as error:
        line = str(error)
        assert line == printable(line)
        assert line.strip()
        assert "\n" not in line, line
        assert len(line) < 2000 + 2 * len(str(folder)), line
        return False
    finally:
        assert time.monotonic() - began < SLOWEST
    return True


def test_the_architecture_page_lists_exactly_these_readers(checkout: Path):
    page = (checkout / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("## Files from outside")[1].split("## Who")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")][2:]
    named = {name for cell in first for name in re.findall("`([^`]+)`", cell)}
    assert named == {*READERS}


@pytest.mark.timeout(2 * SECONDS / len(READERS) + 300)
@pytest.mark.parametrize("name", READERS)
def test_no_content_of_a_file_is_an_error_of_another_kind(name: str, tmp_path: Path):
    reader = READERS[name]
    (tmp_path / "valid").mkdir()
    reader.write(tmp_path / "valid")
    valid = {
        path.relative_to(tmp_path / "valid"): path.read_bytes()
        for path in sorted((tmp_path / "valid").rglob("*"))
        if path.is_file()
    }
    assert check(reader.read, tmp_path / "valid"), "the file that is mutated must be valid"
    tries = 2 if name in QUICK else 12

    @settings(
        max_examples=50 if SECONDS else tries,
        deadline=None,
        database=None,
        derandomize=not SECONDS,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def mutated(data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(sorted(valid)))
        content = data.draw(changed_file(valid[chosen]))
        folder = tmp_path / "mutated"
        shutil.rmtree(folder, ignore_errors=True)
        for path, original in valid.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content if path == chosen else original)
        check(reader.read, folder)

    until, turn = time.monotonic() + SECONDS / len(READERS), 0
    while turn == 0 or time.monotonic() < until:
        seed(time.time_ns())(mutated)() if SECONDS else mutated()
        turn += 1
