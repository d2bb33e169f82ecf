"""The rules of the layout hold: layers, the door, and where PEFT's private names may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "toplora_train"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets"}


def imported_roots(path: Path) -> set[str]:
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.split(".")[0])
    return roots


@pytest.mark.slow  # `make check` runs it too
def test_the_import_contracts_of_pyproject_hold():
    linter = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run(
        [linter, "--no-cache"], cwd=PACKAGE.parent, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_every_module_has_its_test_at_the_same_place():
    assert MODULES
    expected = [
        Path("tests") / relative.parent / f"test_{relative.name}"
        for relative in (path.relative_to(PACKAGE) for path in MODULES)
    ]
    missing = [str(path) for path in expected if not (PACKAGE.parent / path).is_file()]
    assert not missing, f"write {missing}"


def test_every_module_says_what_it_is_for():
    silent = [
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent, f"write the docstrings of {silent}"


def test_hydra_and_omegaconf_are_known_at_the_door_only():
    knowing = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if imported_roots(path) & {"hydra", "omegaconf"}
    }
    assert knowing <= {"config", "study", "cli.py"}


def test_the_door_and_the_report_import_nothing_heavy():
    for path in [
        PACKAGE / "cli.py",
        *(PACKAGE / "study").rglob("*.py"),
        *(PACKAGE / "config").rglob("*.py"),
        *(PACKAGE / "report").rglob("*.py"),
    ]:
        assert not imported_roots(path) & HEAVY, path


BEFORE_THE_FIRST_STEP = {
    "accelerate", "filelock", "huggingface_hub", "jinja2", "markupsafe", "numpy", "peft", "pyarrow",
    "pydantic", "pydantic_core", "regex", "requests", "rich", "safetensors", "scipy", "tokenizers",
    "torch", "transformers", "typing_extensions", "yaml",
}  # fmt: skip


def imported_at_once(path: Path) -> set[str]:
    """The modules that importing a file imports: not those in functions, nor for type checkers."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += ast.iter_child_nodes(node)
    return names


def test_a_training_process_imports_no_other_library_before_its_first_step():
    """Trackers, tables, charts and Hydra are imported where they are used, if at all."""
    waiting, seen, roots = ["launch.worker", "run.finetune"], set(), set()
    while waiting:
        module = PACKAGE / waiting.pop().replace(".", "/")
        for path in {module.with_suffix(".py"), module / "__init__.py"} - seen:
            if path.is_file():
                seen.add(path)
                names = imported_at_once(path)
                inner = {name for name in names if name.startswith("toplora_train.")}
                waiting += [name.removeprefix("toplora_train.") for name in inner]
                roots |= {name.partition(".")[0] for name in names - inner}
    assert len(seen) > 100
    libraries = roots - sys.stdlib_module_names - {"toplora_train"}
    assert libraries <= BEFORE_THE_FIRST_STEP, libraries - BEFORE_THE_FIRST_STEP


LIGHT = """
import importlib, importlib.util, sys
import toplora_train
importlib.util.find_spec("peft")
from toplora_train.report.environment import environment
environment()
for name in (
    "run.prepare.early", "run.prepare.own_table", "report.comparison", "report.comparison_pages",
    "run.rescore", "launch.evaluate", "launch.compare", "launch.export", "launch.generate",
):
    importlib.import_module(f"toplora_train.{name}")
    heavy = {"torch", "transformers", "peft", "accelerate", "datasets", "pandas", "hydra"}
    assert not heavy & {*sys.modules}, (name, heavy & {*sys.modules})
"""


def test_what_needs_no_model_imports_nothing_heavy_not_even_in_turn(checkout):
    """The package itself, versions, checking rows, comparing, rescoring, and commands' usage."""
    subprocess.run([sys.executable, "-W", "error", "-c", LIGHT], cwd=checkout, check=True)


def test_pefts_inner_modules_are_imported_in_one_folder_only():
    """What PEFT does not export, at its top level or as ``peft.optimizers``, may move."""
    importing = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if any(name.startswith("peft.") and name != "peft.optimizers" for name in names):
                importing.add(str(path.parent.relative_to(PACKAGE)))
    assert importing == {"adapters/_peft"}
