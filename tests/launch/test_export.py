"""``toplora-export`` as it is typed."""

import sys
from pathlib import Path

import pytest

from tests.config.example import run_config
from toplora_train.config.resolved import write_config
from toplora_train.launch import export


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["toplora-export", *words])
    return export.main()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["format=lora"], "run is not given: run=RUN, the run directory"),
        (["run=x", "fromat=lora"], "unknown key 'fromat'; did you mean 'format'?"),
        (["run=nowhere", "format=lora"], "run=nowhere: there is no such folder"),
        (["run=."], "give format=lora|merged to write a folder, or push=owner/name"),
        (["run=.", "format=lora", "dry_run=true"], "dry_run=true applies to push=owner/name"),
        (["run=.", "push=a/b", "format=lora"], "push= uploads the run's own adapter"),
        (["run=x", "format=gguf"], "format must be one of lora, merged, not 'gguf'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys
):
    assert run(monkeypatch, *words) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


def test_a_folder_that_is_not_a_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    assert run(monkeypatch, f"run={tmp_path}", "format=lora") == 2
    assert f"{tmp_path} is not a run directory" in capsys.readouterr().err


def test_help_shows_the_keys_without_importing_torch(monkeypatch: pytest.MonkeyPatch, capsys):
    assert run(monkeypatch, "--help") == 0
    assert "usage: toplora-export run=RUN [format=lora|merged] [output=OUTPUT] [push=PUSH]" in (
        capsys.readouterr().out
    )


def test_a_run_that_trained_a_head_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    head = {"name": "cola", "source": "owner/rows", "kind": "classify", "choices": ["a", "b"]}
    write_config(run_config(task={"cola": head}), tmp_path / "config.yaml")
    assert run(monkeypatch, f"run={tmp_path}", "format=lora") == 2
    line = capsys.readouterr().err
    assert "trained a head for cola" in line and "load its adapter/ with PEFT" in line
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
