"""Importing the package is light, and registers its methods with PEFT in any import order."""

import ast
import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import toplora_train


def run(code: str, checkout: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=270,
    )


ORDERS = (
    "import toplora_train; import peft",
    "import peft; import toplora_train",
    "import toplora_train, importlib.util as u; u.find_spec('peft'); import peft.utils",
)
MORE_ORDERS = (
    "import toplora_train.adapters.toplora",
    "from toplora_train import TopLoraConfig",
    "import toplora_train.adapters.base",
    "import toplora_train.adapters.attach",
    "import toplora_train, importlib; importlib.reload(toplora_train); import peft",
    "import toplora_train, peft, importlib; importlib.reload(peft)",
    "import toplora_train, peft, inspect; assert 'PeftModel' in inspect.getsource(peft)",
)

# One process imports PEFT's dependencies; forks of it then try each import order.
IN_FORKS = """
import os, sys, warnings
import peft
try:
    peft.get_peft_config({"peft_type": "TOPLORA"})
except KeyError as error:
    print(f"without the package: KeyError {error}")
for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
    del sys.modules[name]
assert not {"peft", "toplora_train"} & set(sys.modules)
warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
for order in ORDERS:
    child = os.fork()
    if child == 0:
        exec(order)
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
        assert "TOPLORA" in PEFT_TYPE_TO_TUNER_MAPPING
        assert not any("Peft" in type(finder).__name__ for finder in sys.meta_path)
        print("done")
        sys.stdout.flush()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"failed: {order}")
"""


@pytest.mark.parametrize("orders", [ORDERS, pytest.param(MORE_ORDERS, marks=pytest.mark.slow)])
def test_the_methods_are_registered_in_any_order_of_imports_and_not_without_the_package(
    orders: tuple[str, ...], checkout: Path
):
    done = run(f"ORDERS = {orders!r}\n{IN_FORKS}", checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == len(orders)
    assert "without the package: KeyError 'TOPLORA'" in done.stdout


def declared_exports() -> dict[str, str]:
    """What type checkers and editors see: each class and its module."""
    tree = ast.parse(Path(toplora_train.__file__).read_text(encoding="utf-8"))
    return {
        alias.name: str(node.module)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_the_exported_classes_are_those_that_a_type_checker_sees():
    exports = declared_exports()
    assert sorted(exports) == sorted(toplora_train.__all__)
    for name, module in exports.items():
        assert name in dir(toplora_train)
        if name != "train":  # also a package; see tests/test_api.py
            assert getattr(toplora_train, name) is getattr(importlib.import_module(module), name)
    assert exports["TopLoraConfig"] == "toplora_train.adapters.toplora"


@pytest.mark.parametrize("name", ["NoSuchConfig", "Config", "LoraConfig", "toplora", "__path_to__"])
def test_a_name_that_is_not_exported_is_an_attribute_error(name: str):
    with pytest.raises(AttributeError, match=f"'toplora_train' has no attribute '{name}'"):
        getattr(toplora_train, name)


def test_the_package_is_marked_as_typed():
    assert (Path(toplora_train.__file__).parent / "py.typed").is_file()


def test_the_version_is_the_projects(checkout: Path):
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert toplora_train.__version__ == project["version"]
