"""A run is uploaded in one commit, to a server that speaks the hub's protocol."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.adapters.test_contract import attached
from tests.run.finished import finished_run
from toplora_train.adapters.saving import save_adapter
from toplora_train.config.errors import RunFailure, UserError
from toplora_train.run.push import files_to_push, names_folders, push


class Hub(BaseHTTPRequestHandler):
    """Records what is created and committed."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        seen = self.server.seen  # type: ignore[attr-defined]
        answer: dict = {}
        if self.path == "/api/repos/create":
            seen["created"] = json.loads(body)
            answer = {"url": f"http://127.0.0.1:{self.server.server_port}/owner/name"}
        elif "/preupload/" in self.path:
            paths = [one["path"] for one in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
            answer = {"files": modes}
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            seen["files"] = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            url = f"http://127.0.0.1:{self.server.server_port}/owner/name/commit/1"
            answer = {"commitUrl": url, "commitOid": "1"}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    server = HTTPServer(("127.0.0.1", 0), Hub)
    server.seen = {}  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    finished_run(folder, {"a": "12"})
    save_adapter(attached("toplora"), folder / "adapter")
    (folder / "adapter" / "README.md").write_text('from_pretrained(base, "FOLDER_OF_THIS_FILE")')
    (folder / "report.html").write_text("a page")
    return folder


def test_adapter_card_and_report_arrive(run_dir: Path, hub):
    files = files_to_push(run_dir, "owner/name", report=True)
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    address = push(files, "owner/name", private=True, endpoint=endpoint)
    assert address == f"{endpoint}/owner/name/commit/1"
    assert hub.seen["created"]["name"] == "name"
    assert hub.seen["created"]["organization"] == "owner"
    found = hub.seen["files"]
    assert found.pop("README.md") == b'from_pretrained(base, "owner/name")'
    assert (
        found["adapter_model.safetensors"]
        == (run_dir / "adapter" / "adapter_model.safetensors").read_bytes()
    )
    assert found["report.html"] == b"a page"
    assert {"adapter_config.json", "report.json"} <= found.keys()
    assert not any("predictions" in name or "checkpoints" in name for name in found)


def test_the_report_can_stay_at_home(run_dir: Path):
    found = files_to_push(run_dir, "owner/name", report=False)
    assert "report.html" not in found
    assert "adapter_config.json" in found


def test_files_that_name_the_home_folder_are_found(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (run_dir / "report.html").write_text(f"rows of {tmp_path}/home/secret/rows.jsonl")
    assert names_folders(files_to_push(run_dir, "owner/name", report=True)) == ["report.html"]


@pytest.mark.parametrize("repo", ["name", "a/b/c", "owner/na me", "owner/--"])
def test_what_is_no_repository_is_named(repo: str, run_dir: Path):
    with pytest.raises(UserError, match=f"^push={repo}"):
        files_to_push(run_dir, repo, report=True)


def test_an_adapter_that_is_not_the_runs_is_not_uploaded(run_dir: Path):
    config = run_dir / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace("TOPLORA", "LORA"))
    with pytest.raises(UserError, match="holds a LORA adapter, but the run trained TOPLORA"):
        files_to_push(run_dir, "owner/name", report=True)


def test_without_a_token_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UserError, match="hf auth login"):
        push({}, "owner/name", private=True)


@pytest.mark.usefixtures("hub")
def test_a_hub_that_cannot_be_reached_is_one_line(run_dir: Path):
    files = files_to_push(run_dir, "owner/name", report=True)
    with pytest.raises(RunFailure, match=r"^push=owner/name: nothing was uploaded \("):
        push(files, "owner/name", private=True, endpoint="http://127.0.0.1:9")
