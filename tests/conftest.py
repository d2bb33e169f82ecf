"""Fixtures shared by all tests; the environment is offline and quiet."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "offline")

CHECKOUT = Path(__file__).resolve().parent.parent


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
