import json
import platform
import subprocess
from importlib import metadata

from toplora_train.report.environment import environment, git_commit


def test_versions_match_the_installed_packages():
    found = environment("a device")
    assert found["python"] == platform.python_version()
    assert found["device"] == "a device"
    assert found["cpu_count"] >= 1
    assert found["packages"]["peft"] == metadata.version("peft")
    json.dumps(found)


def commit(folder, *arguments):
    settings = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(
        ["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True
    )


def test_the_commit_is_marked_if_there_are_changes(tmp_path):
    assert git_commit(tmp_path) is None
    commit(tmp_path, "init")
    assert git_commit(tmp_path) is None
    file = tmp_path / "a"
    file.write_text("1")
    commit(tmp_path, "add", "a")
    commit(tmp_path, "commit", "-m", "first")
    clean = git_commit(tmp_path)
    assert len(clean) == 40
    file.write_text("2")
    assert git_commit(tmp_path) == clean + "+changes"
