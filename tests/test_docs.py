"""Every adapter has its page, made of its docstring, and the site builds without a warning."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from toplora_train.config.locate import options

CHECKOUT = Path(__file__).resolve().parents[1]
OWN = sorted(set(options("adapter")) - {"peft"})


def docstring(name: str) -> str:
    source = (CHECKOUT / "toplora_train" / "adapters" / f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


@pytest.mark.parametrize("name", options("adapter"))
def test_an_adapter_has_a_page_from_its_docstring_and_its_settings(name: str):
    page = (CHECKOUT / "docs" / "adapters" / f"{name}.md").read_text(encoding="utf-8")
    assert f"::: toplora_train.adapters.{name}\n" in page
    assert f"conf/adapter/{name}.yaml" in page
    assert f"adapters/{name}.md" in (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8")
    assert f"adapters/{name}.md" in (CHECKOUT / "docs" / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(
    "part", ["Paper: ", "Shapes: ", "Start: ", "Parameters", "Cost: ", "Merges: "]
)
def test_an_adapters_docstring_says_what_a_user_asks(name: str, part: str):
    assert part in docstring(name)


def test_our_reading_is_called_so():
    page = (CHECKOUT / "docs" / "index.md").read_text(encoding="utf-8")
    assert "(adapters/genlora.md) (our reading)" in page
    assert "this project's own reading" in " ".join(docstring("genlora").split())


@pytest.mark.parametrize("script", ["one_node", "several_nodes"])
def test_a_slurm_script_is_bash_and_goes_on_after_the_warning(script: str):
    path = CHECKOUT / "docs" / "slurm" / f"{script}.sh"
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text(encoding="utf-8")
    assert "#SBATCH --signal=USR1@120" in text
    assert "resume=auto" in text
    assert f'--8<-- "docs/slurm/{script}.sh"' in (CHECKOUT / "docs/running.md").read_text("utf-8")


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: make docs installs it")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=CHECKOUT, check=True)
    assert "RMSNorm" in (tmp_path / "adapters" / "toplora.html").read_text(encoding="utf-8")
