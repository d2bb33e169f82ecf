"""``toplora-fuse`` as it is typed."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from tests.config.example import run_config
from toplora_train.config.resolved import write_config
from toplora_train.launch import fuse


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["toplora-fuse", *words])
    return fuse.main()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "runs is not given: runs=RUNS, two or more runs"),
        (["runs=[a,b]"], "train is not given: train=FILE.jsonl, the rows to train the gate on"),
        (
            ["runs=[a,b]", "train=x", "density=1"],
            "density= is for fixed weights, method=linear|cat",
        ),
        (["runs=[a,b]", "method=slerp"], "method must be one of flow, linear, cat, ties"),
        (["runs=[a,b]", "method=cat", "task=[x]"], "unknown key 'task'"),
        (["runs=[a,b]", "method=cat", "train=x"], "method=cat trains nothing, so train= has no"),
        (["runs=[a,b]", "method=cat"], "output is not given: output=FOLDER, the run directory"),
        (
            ["runs=[a,b]", "method=cat", "output=x", "weights=[1]"],
            "weights has 1 numbers for 2 runs",
        ),
        (["runs=[a,b]", "method=cat", "output=x", "weights=[1,y]"], "weights must be numbers, not"),
        (
            ["runs=[a,b]", "method=cat", "output=x", "density=0.2"],
            "density= is for method=ties|dare",
        ),
        (["runs=[a,b]", "method=ties", "output=x", "density=2"], "density must be above 0 and at"),
        (["runs=[a,b]", "method=ties", "output=x", "seed=y"], "seed=y must be a whole number"),
        (["runs=[a,b]", "method=ties", "output=x"], "runs=a has no adapter_config.json; give a"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, line, monkeypatch, capsys):
    assert run(monkeypatch, *words) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


def test_flow_is_a_run_of_toplora_train_on_the_first_runs_model(
    tmp_path: Path, monkeypatch, capsys
):
    model = {"name": "tiny", "builtin": "tiny", "dtype": "bfloat16"}
    prompt = {"dataset__prompt": "It's {instruction}?\n", "dataset__max_length": 99}
    write_config(run_config(model=model, **prompt), tmp_path / "config.yaml")
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, words: started.append(words))
    words = [f"runs=[{tmp_path},{tmp_path}/b]", "train=few.jsonl", "task=[gsm8k]", "output=out"]
    with pytest.raises(KeyError, match="method"):  # where the process would have been replaced
        run(monkeypatch, *words, "dataset.max_length=50")
    assert started[0][1:4] == ["-P", "-m", "toplora_train.cli"]
    assert capsys.readouterr().out == shlex.join(["toplora-train", *started[0][4:]]) + "\n"
    assert started[0][4:] == [
        "adapter=fusion",
        f"adapter.runs=[{tmp_path},{tmp_path}/b]",
        "dataset=jsonl",
        "dataset.train=few.jsonl",
        "model=tiny",
        "model.dtype=bfloat16",
        "dataset.prompt='It\\'s {instruction}?\n'",
        "output_dir=out",
        "task=[gsm8k]",
        "dataset.max_length=50",
    ]


def test_the_words_are_read_back_by_hydra():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    texts = [
        "/a b/c",
        "/a-b/c.d",
        "few.jsonl",
        "1.5",
        "null",
        "True",
        "nan",
        "name",
        "1e5",
        "It's {x}?\nYes: \\n",
        "plain",
        "a,b",
        "end\\",
        "\\'",
    ]
    words = [f"key={fuse.quoted(text)}" for text in texts]
    read = [one.value() for one in OverridesParser.create().parse_overrides(words)]
    assert read == texts
    assert [fuse.quoted(value) for value in (None, True, 3)] == ["null", "true", "3"]


def test_another_setting_of_the_model_keeps_the_first_runs_model_and_prompt(tmp_path: Path):
    model = {"name": "tiny", "builtin": "tiny"}
    write_config(
        run_config(model=model, dataset__prompt="Q: {instruction}"), tmp_path / "config.yaml"
    )
    runs, given = [tmp_path, tmp_path / "b"], {"train": "few.jsonl"}
    words = fuse.training_words(runs, given, ["model.attention=eager"])
    assert "model=tiny" in words and "model.attention=eager" in words
    assert "dataset.prompt='Q: {instruction}'" in words
    other = fuse.training_words(runs, given, ["model=smollm2_135m"])
    assert "model=tiny" not in other
    assert "dataset.prompt='Q: {instruction}'" in other


def test_help_shows_the_keys_without_importing_torch(monkeypatch, capsys):
    assert run(monkeypatch, "--help") == 0
    assert "usage: toplora-fuse runs=RUNS [method=flow|linear|cat|ties|dare_linear|dare_ties]" in (
        capsys.readouterr().out
    )
