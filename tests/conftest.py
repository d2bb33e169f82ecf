"""Fixtures shared by all tests; the environment is offline and quiet."""

import gc
import logging
import os
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import yaml

from toplora_train.run.platform.cpu_matmul import choose_matmul

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")  # as in every run on a CPU

KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "toplora-train"
CHECKOUT = Path(__file__).resolve().parent.parent

# The modules that collecting imports stay until the end: no garbage collection looks at them.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _own_cache() -> Iterator[None]:
    """A cache that is empty but for models read before, and gone afterwards."""
    if "TOPLORA_CACHE" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPLORA_CACHE", folder)
        (KEPT / "models").mkdir(parents=True, exist_ok=True)
        (Path(folder) / "models").symlink_to(KEPT / "models")
        yield


@pytest.fixture(scope="session", autouse=True)
def _parse_the_packages_files_once() -> Iterator[None]:
    """A test composes dozens of YAML files that do not change, and parsing them is pure Python."""
    load, known = yaml.load, {}
    folders = tuple(f"{CHECKOUT / name}{os.sep}" for name in ("conf", "recipes"))

    def load_once(stream, Loader):
        name = str(getattr(stream, "name", ""))
        if isinstance(
            stream, StringIO
        ):  # a file's text, as toplora_train.config.yaml_file reads it
            name = stream.getvalue()
        elif not name.startswith(folders):
            return load(stream, Loader)
        key = (name, Loader.__qualname__)
        if key not in known:
            known[key] = load(stream, Loader)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "load", load_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _products() -> None:
    """As every job begins: what one test computes does not depend on a job in another."""
    choose_matmul()


@pytest.fixture(autouse=True)
def _no_log_to_a_closed_stream() -> Iterator[None]:
    """Hydra's own commands log to the standard output of the test that gave them."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in root.handlers[:]:
        if handler not in before and type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="session")
def checkout() -> Path:
    return CHECKOUT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real rows and goldens, if at hand: $TOPLORA_SHARED or `shared` beside the checkout."""
    folder = Path(os.environ.get("TOPLORA_SHARED", CHECKOUT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder of real rows and goldens at {folder}; set TOPLORA_SHARED")
    return folder
