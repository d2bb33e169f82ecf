"""The command line in this process."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from toplora_train import cli
from toplora_train.study import job


@pytest.fixture
def composed(monkeypatch, capsys) -> Callable[..., dict[str, Any]]:
    """The configuration that ``toplora-train --cfg job ...`` prints."""

    def compose(*words: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["toplora-train", *words, "--cfg", "job"])
        code = cli.main()
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return yaml.safe_load(shown.out)

    return compose


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path) -> Callable[..., str]:
    """The one-line error of ``toplora-train ...``."""

    def never(*_: Any) -> None:
        raise AssertionError("the run was started")

    monkeypatch.setattr(job, "run_job", never)
    monkeypatch.chdir(tmp_path)

    def refuse(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["toplora-train", *words])
        code = cli.main()
        shown = capsys.readouterr()
        assert code == 2, shown
        assert shown.out == ""
        lines = shown.err.splitlines()
        assert len(lines) == 1, shown.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    return refuse
