"""A downloaded file is complete and verified, or absent; tested with real local sockets."""

import hashlib
import logging
import os
import socket
import subprocess
import sys

import pytest

from tests.data import loopback
from tests.data.loopback import serving
from toplora_train.config.errors import UserError
from toplora_train.data import download as module
from toplora_train.data.download import blob_id, download, has_blob_id

CONTENT = bytes(range(256)) * 2000  # some chunks
SIZE = len(CONTENT)
BLOB = hashlib.sha1(f"blob {len(CONTENT)}\0".encode() + CONTENT).hexdigest()


@pytest.fixture
def server():
    with serving({"a/file.json": CONTENT}) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(module, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def fetch(server, place, *, size=SIZE):
    url = f"{server.url}/a/file.json"
    download(url, place, blob=BLOB, size=size, otherwise="put the file at HERE")


def continued_at(server):
    """The first byte that the last request asked for."""
    return int(server.asked[-1][1].removeprefix("bytes=").removesuffix("-"))


def test_a_blob_id_is_gits(tmp_path):
    path = tmp_path / "empty"
    path.touch()
    assert blob_id(path) == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git's id of the empty file
    path.write_bytes(CONTENT)
    assert has_blob_id(path, BLOB)
    assert not has_blob_id(tmp_path / "absent", BLOB)


def test_a_file_is_downloaded_once_and_only_its_lock_is_left(server, tmp_path):
    place = tmp_path / "deep" / "file.json"
    fetch(server, place)
    assert place.read_bytes() == CONTENT
    fetch(server, place)
    assert len(server.asked) == 1
    assert {path.name for path in place.parent.iterdir()} == {"file.json", ".file.json.lock"}


def test_a_damaged_file_is_replaced(server, tmp_path):
    (tmp_path / "file.json").write_bytes(CONTENT[:-1])
    fetch(server, tmp_path / "file.json")
    assert (tmp_path / "file.json").read_bytes() == CONTENT


@pytest.mark.parametrize("answer", [loopback.half, loopback.half_of_unknown_length])
def test_an_interrupted_body_is_resumed(server, tmp_path, answer, caplog):
    server.answers = [answer]
    with caplog.at_level(logging.WARNING):
        fetch(server, tmp_path / "file.json")
    assert (tmp_path / "file.json").read_bytes() == CONTENT
    assert server.asked[0][1] is None and len(server.asked) == 2
    assert 0 < continued_at(server) <= len(CONTENT) // 2
    assert caplog.text.count("retrying") == 1


def test_without_range_support_the_file_is_sent_again(server, tmp_path):
    server.answers = [loopback.half, loopback.without_ranges]
    fetch(server, tmp_path / "file.json")
    assert (tmp_path / "file.json").read_bytes() == CONTENT


def test_a_failed_download_is_absent_and_resumed_by_the_next_run(server, tmp_path):
    server.answers = [loopback.half, *[loopback.status(503)] * 3]
    with pytest.raises(UserError, match="the server answered 503 Service Unavailable"):
        fetch(server, tmp_path / "file.json")
    assert not (tmp_path / "file.json").exists()
    fetch(server, tmp_path / "file.json")
    assert 0 < continued_at(server) <= len(CONTENT) // 2
    assert (tmp_path / "file.json").read_bytes() == CONTENT


def test_a_stale_partial_file_is_discarded(server, tmp_path):
    for left in (b"x" * 7, b"x" * len(CONTENT), CONTENT + b"x"):
        place = tmp_path / str(len(left)) / "file.json"
        place.parent.mkdir()
        (place.parent / ".file.json.part").write_bytes(left)
        fetch(server, place)
        assert place.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [SIZE, None])
def test_wrong_content_is_refused_and_not_kept(server, tmp_path, size):
    server.answers = [loopback.wrong_byte]
    with pytest.raises(UserError, match=r"unexpected content .* not kept; put the fi"):
        fetch(server, tmp_path / "file.json", size=size)
    assert [path.name for path in tmp_path.iterdir()] == [".file.json.lock"]


def test_a_missing_file_is_requested_once_and_reported(server, tmp_path):
    server.answers = [loopback.status(404)]
    with pytest.raises(UserError, match=r"/a/file\.json: .*answered 404 Not Found\); put the file"):
        fetch(server, tmp_path / "file.json")
    assert len(server.asked) == 1
    assert not (tmp_path / "file.json").exists()


def test_a_transient_failure_is_retried(server, tmp_path):
    server.answers = [loopback.status(500), loopback.status(429)]
    fetch(server, tmp_path / "file.json")
    assert (tmp_path / "file.json").read_bytes() == CONTENT
    assert len(server.asked) == 3


def test_a_permanent_failure_gives_up(server, tmp_path):
    server.answers = [loopback.status(500)] * 9
    with pytest.raises(UserError, match="answered 500 Internal Server Error"):
        fetch(server, tmp_path / "file.json")
    assert len(server.asked) == 4


def test_a_stalled_server_times_out(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")
    server.answers = [loopback.stalled]
    fetch(server, tmp_path / "file.json")
    assert (tmp_path / "file.json").read_bytes() == CONTENT
    server.answers = [loopback.stalled] * 9
    server.files["a/file.json"] = b"12"  # half of it is less than one chunk
    with pytest.raises(UserError, match=r"did not answer in time\); put the file at HERE"):
        fetch(server, tmp_path / "other.json")


def test_a_refused_connection_is_an_error_with_a_remedy(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a/file.json"
    with pytest.raises(UserError, match=r"\(Connection refused\); put the file at HERE") as caught:
        download(url, tmp_path / "x", blob=BLOB, size=None, otherwise="put the file at HERE")
    assert "\n" not in str(caught.value)


def test_an_unwritable_folder_is_named(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/x\.json: cannot be written .* TOPLORA_CACHE=FOLDER"):
        fetch(server, tmp_path / "file" / "x.json")


def test_two_concurrent_processes_download_once(server, tmp_path):
    server.answers = [loopback.slow]
    script = (
        "import sys; from pathlib import Path; from toplora_train.data.download import download\n"
        "download(sys.argv[1], Path(sys.argv[2]), blob=sys.argv[3], size=None, otherwise='')"
    )
    place = tmp_path / "file.json"
    command = [sys.executable, "-c", script, f"{server.url}/a/file.json", str(place), BLOB]
    both = [subprocess.Popen(command, env=os.environ.copy()) for _ in range(2)]
    assert [one.wait(60) for one in both] == [0, 0]
    assert len(server.asked) == 1
    assert place.read_bytes() == CONTENT
