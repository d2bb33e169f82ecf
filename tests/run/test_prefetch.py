import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.schema import DatasetSettings, ModelSettings
from toplora_train.run import prefetch


def test_local_inputs_are_listed_with_their_location(make_run, tmp_path, capsys):
    prefetch.run(make_run())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("training rows, bundled:arithmetic/train.jsonl: /")
    assert lines[0].endswith("train.jsonl")
    assert lines[2] == "model, tiny: made in code"
    assert list(tmp_path.iterdir()) == []


def test_each_failed_download_is_a_line_and_the_others_are_still_fetched(
    make_run, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOPLORA_CACHE", str(tmp_path))
    source = "llm-adapters:ft-training_set/math_10k.json"
    config = make_run(
        dataset=DatasetSettings(name="away", train=source),
        model=ModelSettings(name="x", path="nobody/nothing"),
    )
    with pytest.raises(UserError, match=r"2 of 3 could not be fetched"):
        prefetch.run(config)
    training, test, model = capsys.readouterr().out.splitlines()
    assert training.startswith(f"training rows, {source}: not fetched: ")
    assert "HF_HUB_OFFLINE" in training
    assert test.startswith("test rows of arithmetic, bundled:arithmetic/test.jsonl: /")
    assert model.startswith("model, nobody/nothing: not fetched: ")
