"""Model weights in an installed Python package, for machines without access to the hub.

Two layouts are supported: a folder with ``model.safetensors``, used in place, and a GGUF file,
converted once to an ordinary checkpoint in the cache folder, which loads faster.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from toplora_train.config.aside import folder_aside
from toplora_train.config.cache import mark_used
from toplora_train.config.folders import cache_folder

logger = logging.getLogger(__name__)


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, without importing it; None if it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def packaged_checkpoint(package: str) -> tuple[Path, str] | None:
    """The checkpoint folder in ``package`` and a description of its origin.

    Returns None if the package is not installed or contains no weights.
    """
    folder = package_folder(package)
    if folder is None:
        return None
    distribution = package.replace("_", "-")
    version = importlib.metadata.version(distribution)
    for weights in sorted(folder.rglob("model.safetensors")):
        return weights.parent, f"{distribution} {version}"
    for gguf in sorted(folder.rglob("*.gguf")):
        target = cache_folder() / "models" / f"{package}-{version}"
        if not (target / "config.json").is_file():
            _convert(gguf, target)
        mark_used(target)
        return target, f"{distribution} {version}, {gguf.suffixes[-2][1:]} dequantised"
    return None


def _convert(gguf: Path, target: Path) -> None:
    """Convert a GGUF file to an fp32 checkpoint, written atomically."""
    logger.info("converting %s to a plain checkpoint in %s", gguf.name, target)
    with folder_aside(target) as aside, _header_read_once():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        # The stored weights are not quantised, so the config must not say so.
        del model.hf_quantizer, model.config.quantization_config
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        if not target.exists():  # else another process was faster
            aside.rename(target)


@contextmanager
def _header_read_once() -> Iterator[None]:
    """Let transformers parse the file's header and its table of tensor names once.

    Its tokenizer, configuration and weights each parse the header again, and every module looks up
    the table again: together more than half the time of a conversion.
    """
    import gguf  # most runs read no such file

    repeated = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = map(cache, repeated)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = repeated
