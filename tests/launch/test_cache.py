"""``toplora-cache`` as it is typed."""

import sys
from pathlib import Path

import pytest

from toplora_train.launch import cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOPLORA_CACHE", str(tmp_path))
    for name, size in {
        "models/smollm2-0.1/model.safetensors": 3 << 20,
        "models/.writing-smollm2-0.1-ab/model.safetensors": 2 << 20,
        "tokens/aa": 1 << 10,
        "data/boolq.json": 5,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * size)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["toplora-cache", *words])
    return cache.main()


def test_every_kind_is_shown_with_its_size_and_age(folder, monkeypatch, capsys):
    monkeypatch.setenv("TOPLORA_CACHE_LIMIT", "2 GiB")
    assert run(monkeypatch) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}: 5 MiB",
        "models (converted models): 2 entries, 5 MiB",
        "      3 MiB  models/smollm2-0.1, used just now",
        "      2 MiB  models/.writing-smollm2-0.1-ab, left by a killed process",
        "tokens (tokenized rows): 1 entry, 1 KiB of at most 2.0 GiB, used just now",
        "data (downloaded data): 1 entry, 5 bytes",
        "    5 bytes  data/boolq.json, used just now",
    ]


def test_clearing_reports_what_was_removed(folder, monkeypatch, capsys):
    assert run(monkeypatch, "clear=models") == 0
    assert capsys.readouterr().out == f"removed 2 entries, 5 MiB, from {folder}\n"
    assert run(monkeypatch, "clear=all", "older_than=30d") == 0
    assert capsys.readouterr().out == f"removed 0 entries, 0 bytes, from {folder}\n"
    assert (folder / "tokens" / "aa").is_file()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["clear=everything"], "clear must be one of models, tokens, data, all, not 'everything'"),
        (
            ["older_than=30d"],
            "older_than limits what is cleared; give clear=models|tokens|data|all",
        ),
        (["clear=all", "older_than=30"], "'30' is not an age"),
        (["claer=all"], "unknown key 'claer'; did you mean 'clear'?"),
        (["tokens"], "'tokens' is not KEY=VALUE"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, line, folder, monkeypatch, capsys):
    assert run(monkeypatch, *words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {line}")
    assert shown.count("\n") == 1
    assert len(list(folder.rglob("*.safetensors"))) == 2


@pytest.mark.usefixtures("folder")
def test_a_limit_that_is_not_a_size_is_one_line_too(monkeypatch, capsys):
    monkeypatch.setenv("TOPLORA_CACHE_LIMIT", "much")
    assert run(monkeypatch) == 2
    assert capsys.readouterr().err == (
        "error: TOPLORA_CACHE_LIMIT=much is not a size; write it like 500MB or 10GiB\n"
    )


def test_help_shows_the_keys(monkeypatch, capsys):
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert "usage: toplora-cache [clear=models|tokens|data|all] [older_than=OLDER_THAN]" in shown
