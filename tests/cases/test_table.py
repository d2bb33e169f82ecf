"""Every hostile input of the table is answered by its exit code and its one line."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases.table import CASES

AT_LEAST = 250


def test_the_names_of_the_cases_differ():
    counted = collections.Counter(case.name for case in CASES)
    assert not [name for name, count in counted.items() if count > 1]
    assert len(CASES) >= AT_LEAST


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_case_of_the_table_is_right(tmp_path: Path, checkout: Path):
    results = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.cases.warm", str(tmp_path / "cases"), str(results)],
        cwd=checkout,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: one["faults"] for name, one in json.loads(results.read_text()).items()}
    assert found.keys() == {case.name for case in CASES}
    known = {case.name for case in CASES if case.wrong}
    right = [name for name, faults in found.items() if not faults]
    print(f"{len(right)} of {len(found)} right; {len(known)} known to be wrong")
    wrong = {name: faults for name, faults in found.items() if faults and name not in known}
    assert not wrong, "\n".join(f"{name}: {faults}" for name, faults in wrong.items())
    assert not known & {*right}, "a case that is known to be wrong is right: remove its mark"
