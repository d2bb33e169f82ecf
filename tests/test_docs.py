"""Every adapter has its page and every key its entry, and the site builds without a warning."""

import ast
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml

from toplora_train.config.locate import options
from toplora_train.config.schema import RunConfig, SharedAdapterSettings

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


def test_every_include_of_a_page_is_of_a_file():
    included = []
    for page in (CHECKOUT / "docs").glob("*.md"):
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.lstrip().startswith("--8"):
                included.append(line)
                assert line.startswith('--8<-- "'), f"{page.name}: {line}"
                assert (CHECKOUT / line.removeprefix('--8<-- "').rstrip('"')).is_file(), line
    assert len(included) > 5


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(
    "part", ["Paper: ", "Shapes: ", "Start: ", "Parameters", "Cost: ", "Merges: "]
)
def test_an_adapters_docstring_says_what_a_user_asks(name: str, part: str):
    assert part in docstring(name)


def test_our_interpretation_is_called_so():
    page = (CHECKOUT / "docs" / "index.md").read_text(encoding="utf-8")
    assert "(adapters/genlora.md) (our interpretation)" in page
    assert "this project's own interpretation" in " ".join(docstring("genlora").split())


@pytest.mark.parametrize("script", ["one_node", "several_nodes"])
def test_a_slurm_script_is_bash_and_goes_on_after_the_warning(script: str):
    path = CHECKOUT / "docs" / "slurm" / f"{script}.sh"
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text(encoding="utf-8")
    assert "#SBATCH --signal=USR1@120" in text
    assert "resume=auto" in text
    assert f'--8<-- "docs/slurm/{script}.sh"' in (CHECKOUT / "docs/running.md").read_text("utf-8")


def schema_keys(settings: type, prefix: str = "") -> list[str]:
    """Every key of the schema; those of a list's or mapping's values under the group's own name."""
    found = []
    for name, hint in get_type_hints(settings).items():
        inner = [hint for hint in (hint, *get_args(hint)) if is_dataclass(hint)]
        found += schema_keys(inner[0], f"{name}.") if inner else [f"{prefix}{name}"]
    return found


def test_the_site_builds_strictly_and_its_reference_has_every_key(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=CHECKOUT, check=True)
    assert "RMSNorm" in (tmp_path / "adapters" / "toplora.html").read_text(encoding="utf-8")

    page = (tmp_path / "configuration.html").read_text(encoding="utf-8")
    keys = [*schema_keys(RunConfig), *schema_keys(SharedAdapterSettings, "adapter.")]
    keys.remove("adapter")  # a heading: its keys are the option files'
    assert len(keys) > 100
    assert [key for key in keys if f'<a id="{key}">' not in page] == []
    for name in options("adapter"):
        of_adapter = yaml.safe_load((CHECKOUT / "conf/adapter" / f"{name}.yaml").read_text("utf-8"))
        section = page.partition(f'<h3 id="adapter{name}">')[2].partition("<h3")[0]
        assert [key for key in of_adapter if key not in section] == []

    page = (tmp_path / "recipes.html").read_text(encoding="utf-8")
    for name in options("recipe"):
        assert f'<h2 id="{name}">' in page
    assert "<td>TopLoRA (arXiv 2510.23123), second-hand" in page
