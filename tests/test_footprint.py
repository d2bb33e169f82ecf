"""What the real commands touch: their own folder and the cache, and no code that lies about."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

MAKING = re.compile(
    r'^\d+ +(?:open(?:at)?\((?:AT_FDCWD, )?"(?P<opened>[^"]+)", [^)]*O_CREAT'
    r'|(?:mkdir|mknod|symlink|link|rename)(?:at2?|at)?\(.*"(?P<made>[^"]+)"[^"]*\)) += \d'
)
CODE = "open({!r}, 'a').write(__file__)\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders for the run, cache, home and temporary files, and a folder of hostile modules."""
    place = tmp_path_factory.mktemp("place")
    for name in ("cache", "home", "temporary", "here", "model"):
        (place / name).mkdir()
    for name in ("random", "accelerate", "json", "sitecustomize"):
        (place / "here" / f"{name}.py").write_text(CODE.format(str(place / "ran")))
    (place / "model" / "evil.py").write_text(CODE.format(str(place / "ran")))
    (place / "model" / "config.json").write_text(
        '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.A", '
        '"AutoModelForCausalLM": "evil.B"}}'
    )
    (place / "model" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.C", null]}}'
    )
    return place


def call(place: Path, *words: str, trace: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command with "y" waiting on standard input, in the folder of hostile modules."""
    folders = {"HOME": "home", "TMPDIR": "temporary", "TOPLORA_CACHE": "cache", "HF_HOME": "cache"}
    environment = os.environ | {name: str(place / folder) for name, folder in folders.items()}
    command = [str(Path(sys.executable).parent / words[0]), *words[1:]]
    if trace is not None:
        traced = "trace=open,openat,mkdir,mkdirat,mknod,mknodat,symlink,symlinkat,link,linkat,"
        traced += "rename,renameat,renameat2"
        command = ["strace", "-f", "-s", "4096", "-e", traced, "-o", str(trace), *command]
    return subprocess.run(
        command,
        cwd=place / "here",
        env=environment,
        input="y\n" * 20,
        capture_output=True,
        text=True,
        check=False,
    )


def made(trace: Path, here: Path) -> set[Path]:
    """The paths that the traced processes created."""
    found = set()
    for line in trace.read_text(errors="replace").splitlines():
        if match := MAKING.match(line):
            found.add((here / (match["opened"] or match["made"])).resolve())
    return found


def test_no_command_makes_a_file_outside_its_folder_and_the_cache(place: Path):
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    run, trace = place / "run", place / "trace"
    before = sorted((place / "here").rglob("*"))
    allowed = [run, place / "cache", place / "home" / ".cache", place / "temporary", Path("/dev")]
    for words in (
        ("toplora-train", "recipe=smoke", "adapter=lora", f"output_dir={run}"),
        ("toplora-eval", f"run={run}", "limit=4", "name=again"),
        ("toplora-export", f"run={run}", "format=lora"),
        ("toplora-report", str(run), f"output={run / 'comparison'}"),
    ):
        ended = call(place, *words, trace=trace)
        assert ended.returncode == 0, ended.stderr[-2000:]
        paths = made(trace, place / "here")
        assert paths, "the trace shows no file at all"
        assert not [p for p in paths if not any(p.is_relative_to(folder) for folder in allowed)]
    assert sorted((place / "here").rglob("*")) == before
    assert not list((place / "temporary").iterdir())
    assert not (place / "ran").exists()


def test_no_code_of_a_models_folder_runs_with_y_on_standard_input(place: Path):
    model = place / "model"
    run = place / "strangers"
    made_here = ("toplora-train", "recipe=smoke", "adapter=lora", f"output_dir={run}")
    assert call(place, *made_here).returncode == 0
    config = (run / "config.yaml").read_text()
    config = config.replace("path: null", f"path: {model}", 1).replace("builtin: tiny", "builtin:")
    config = config.replace("trust_remote_code: false", "trust_remote_code: true")
    (run / "config.yaml").write_text(config)
    given = ("model.builtin=null", f"model.path={model}")
    for words in (
        ("toplora-train", "recipe=smoke", *given, f"output_dir={place / 'refused'}"),
        ("toplora-train", "recipe=smoke", *given, "plan=true"),
        ("toplora-eval", f"run={run}", "name=strange"),
        ("toplora-export", f"run={run}", "format=merged"),
    ):
        ended = call(place, *words)
        assert ended.returncode == 2, ended.stderr
        lines = ended.stderr.splitlines()
        assert len(lines) == 1, ended.stderr
        assert lines[0].startswith("error: ")
        assert not (place / "ran").exists()
