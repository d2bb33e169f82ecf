import json
import logging
import struct

import pytest

from toplora_train.config.errors import UserError
from toplora_train.report.tracker import NoTracker, has_api_key, open_tracker

BLOCK = 32768


def open_run(run_dir, name="wandb"):
    return open_tracker(
        name,
        project="a-project",
        entity=None,
        group="a-group",
        run_dir=run_dir,
        config={"adapter": {"r": 8}},
    )


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
    tracker = open_run(tmp_path / "run-7")
    for step in range(1, 41):
        tracker.log({"loss": 1 / step, "lr": 1e-4}, step=step)
    tracker.finish({"average": 0.64})
    (path,) = (tmp_path / "run-7" / "wandb").glob("offline-run-*/*.wandb")
    assert [(row["_step"], row["loss"], row["lr"]) for row in history(path)] == [
        (step, 1 / step, 1e-4) for step in range(1, 41)
    ]
    stored = list(records(path))
    (run,) = [r.run for r in stored if r.HasField("run")]
    assert (run.project, run.run_group, run.display_name) == ("a-project", "a-group", "run-7")
    summaries = [r.summary for r in stored if r.HasField("summary")]
    assert any(values(s.update).get("average") == 0.64 for s in summaries)
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
        tracker = open_run(tmp_path / "run")
        tracker.log({"loss": 1.0}, step=1)
        tracker.finish({})
    assert len([m for m in caplog.messages if "logged offline" in m]) == 1
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.usefixtures("offline")
def test_a_tracker_that_cannot_start_gives_one_warning_and_stops_nothing(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("WANDB_MODE", "sideways")
    tracker = open_run(tmp_path / "run")
    tracker.log({"loss": 1.0}, step=1)
    tracker.finish({})
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "training continues" in warnings[0].getMessage()


@pytest.mark.usefixtures("offline")
def test_a_metric_that_cannot_be_stored_gives_one_warning_and_stops_nothing(tmp_path, caplog):
    tracker = open_run(tmp_path / "run")
    for step in (1, 2):
        tracker.log({"loss": object()}, step=step)  # no tracker can store this
    tracker.log({"loss": 0.5}, step=3)
    tracker.finish({})
    assert len([r for r in caplog.records if r.name.startswith("toplora_train")]) == 1
    (path,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert [row["loss"] for row in history(path)] == [0.5]


def test_the_none_tracker_does_nothing(tmp_path):
    tracker = open_run(tmp_path / "run", "none")
    assert isinstance(tracker, NoTracker)
    tracker.log({"loss": 1.0}, step=1)
    tracker.finish({})
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="unknown tracker 'tensorbord'"):
        open_run(tmp_path, "tensorbord")


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
