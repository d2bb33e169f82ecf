"""Read a safetensors file from outside: its tensors, or one line that names the file."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from toplora_train.config.errors import UserError
from toplora_train.config.reading import validate_file


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        UserError: It is missing, no such file, cut off, or has a dtype unknown to PyTorch.
    """
    validate_file(file)
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, LookupError, AttributeError) as error:
        raise UserError(f"{file}: not a valid safetensors file ({error})") from error


def validate_tensors(file: Path) -> None:
    """Read only the header of a safetensors file, which describes the whole file.

    Raises:
        UserError: See :func:`read_tensors`.
    """
    validate_file(file)
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not a valid safetensors file ({error})") from error
