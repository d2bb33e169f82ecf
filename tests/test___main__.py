"""The front door lists and runs every command."""

import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from toplora_train.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["toplora", *words])
    return main()


def test_every_installed_command_is_behind_it_under_its_own_name():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    installed = {
        name.removeprefix("toplora-"): value.removesuffix(":main")
        for name, value in scripts.items()
        if name != "toplora"
    }
    behind = {name: module for name, (module, _) in COMMANDS.items() if name != "completion"}
    assert behind == installed


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_alone_it_lists_the_commands(words, monkeypatch: pytest.MonkeyPatch, capsys):
    assert run(monkeypatch, *words) == 0
    out = capsys.readouterr().out
    for name, (_, purpose) in COMMANDS.items():
        assert f"toplora {name}" in out
        assert purpose in out


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_the_words_after_a_commands_name_are_that_commands(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys
):
    assert run(monkeypatch, name, "--help") == 0
    behind = capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [f"toplora-{name}", "--help"])
    assert import_module(COMMANDS[name][0]).main() == 0
    assert capsys.readouterr().out == behind


@pytest.mark.parametrize("words", [["--version"], ["train", "--version"]])
def test_other_words_are_for_training(words, monkeypatch: pytest.MonkeyPatch, capsys):
    assert run(monkeypatch, *words) == 0
    assert capsys.readouterr().out.startswith("toplora-train ")


def test_an_unknown_command_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys):
    assert run(monkeypatch, "genrate", "run=x") == 2
    assert capsys.readouterr().err.startswith(
        "error: no command named 'genrate'; did you mean 'generate'?"
    )
