"""Weights & Biases, offline, read back from its own file."""

import json
import logging
import struct

import pytest

from toplora_train.config.schema import TrackerSettings
from toplora_train.report.trackers.base import TrackedRun
from toplora_train.report.trackers.wandb import has_api_key, open_run

BLOCK = 32768


def open_wandb(run_dir):
    settings = TrackerSettings(name="wandb", project="a-project", group="a-group")
    return open_run(TrackedRun(run_dir, settings, {"adapter": {"r": 8}}))


def records(path):
    """Read an offline run: a 7-byte header, then LevelDB's log format, 32 KiB blocks of chunks."""
    from wandb.proto import wandb_internal_pb2

    data, place, message = path.read_bytes(), 7, b""
    while place < len(data):
        left = BLOCK - place % BLOCK
        if left < 7:  # a block's end is padded
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        message += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            yield record
            message = b""


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    import wandb

    wandb.teardown()


def values(items):
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def history(path):
    return [values(r.history.item) for r in records(path) if r.HasField("history")]


@pytest.mark.usefixtures("offline")
def test_an_offline_run_contains_every_logged_metric(tmp_path, capfd):
    tracker = open_wandb(tmp_path / "run-7")
    for step in range(1, 41):
        tracker.log({"loss": 1 / step, "lr": 1e-4}, step=step)
    report = tmp_path / "report.md"
    report.write_text("# A report")
    tracker.finish({"average": 0.64}, [report])
    (path,) = (tmp_path / "run-7" / "wandb").glob("offline-run-*/*.wandb")
    assert [(row["_step"], row["loss"], row["lr"]) for row in history(path)] == [
        (step, 1 / step, 1e-4) for step in range(1, 41)
    ]
    stored = list(records(path))
    (run,) = [r.run for r in stored if r.HasField("run")]
    assert (run.project, run.run_group, run.display_name) == ("a-project", "a-group", "run-7")
    summaries = [r.summary for r in stored if r.HasField("summary")]
    assert any(values(s.update).get("average") == 0.64 for s in summaries)
    (artifact,) = [r.request.log_artifact.artifact for r in stored if r.HasField("request")] or [
        r.artifact for r in stored if r.HasField("artifact")
    ]
    assert [entry.path for entry in artifact.manifest.contents] == ["report.md"]
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("offline")
def test_without_api_key_or_mode_the_run_is_offline_and_this_is_logged_once(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with caplog.at_level(logging.INFO, logger="toplora_train"):
        tracker = open_wandb(tmp_path / "run")
        tracker.log({"loss": 1.0}, step=1)
        tracker.finish({}, [])
    assert len([m for m in caplog.messages if "logged offline" in m]) == 1
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


@pytest.fixture
def no_keys(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_an_api_key_is_found_in_the_environment_and_in_netrc(no_keys, monkeypatch):
    address = "https://api.wandb.ai"
    assert not has_api_key(address)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert has_api_key(address)
    monkeypatch.delenv("WANDB_API_KEY")
    file = no_keys / ".netrc"
    file.write_text("machine api.wandb.ai\n  login user\n  password k\n")
    file.chmod(0o600)
    assert has_api_key(address)
    assert not has_api_key("https://wandb.example.org")
