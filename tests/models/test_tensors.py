"""A safetensors file is read as written, or refused in one line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from toplora_train.config.errors import UserError
from toplora_train.models.tensors import read_tensors, validate_tensors


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file({"a": torch.arange(6.0).reshape(2, 3)}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def test_tensors_are_read_as_written(file: Path):
    validate_tensors(file)
    assert torch.equal(read_tensors(file)["a"], torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("left", [0, 4, 8, 30, -1])
@pytest.mark.parametrize("read", [read_tensors, validate_tensors])
def test_a_file_that_was_cut_off_is_named(file: Path, left: int, read):
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(UserError, match=r"a\.safetensors: not a valid safetensors file \("):
        read(file)


def test_a_header_of_absurd_length_is_refused_unread(file: Path):
    file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])
    with pytest.raises(UserError, match="not a valid safetensors file"):
        read_tensors(file)
