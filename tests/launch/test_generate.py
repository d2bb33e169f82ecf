"""``toplora-generate`` as it is typed."""

import sys
from pathlib import Path

import pytest

from tests.run.finished import finished_run
from toplora_train.launch import generate


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["toplora-generate", *words])
    return generate.main()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["prompt=x"], "run is not given: run=RUN, the run directory"),
        (["run=nowhere"], "run=nowhere: there is no such folder"),
        (["run=RUN", "prompt=x", "file=y"], "prompt= and file= are two ways to ask"),
        (["run=RUN", "file=y"], "file= needs a file for the answers: output=answers.jsonl"),
        (["run=RUN", "prompt=x", "output=y"], "output=y applies to file=FILE"),
        (["run=RUN", "file=y", "output=z", "limit=0"], "limit=0 must be a whole number"),
        (["run=RUN", "prompt=  "], "prompt is empty"),
        (["run=RUN", "prompt=x", "max_new_tokens=-1"], "max_new_tokens must be"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    finished_run(tmp_path / "run", {"a": "12"})
    assert run(monkeypatch, *(word.replace("RUN", str(tmp_path / "run")) for word in words)) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


def test_help_shows_the_keys(monkeypatch: pytest.MonkeyPatch, capsys):
    assert run(monkeypatch, "--help") == 0
    assert "usage: toplora-generate run=RUN [prompt=PROMPT] [file=FILE]" in capsys.readouterr().out
