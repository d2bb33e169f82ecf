"""Model weights that an installed Python package carries, for machines that reach no hub.

Two layouts are known: a folder with ``model.safetensors`` (used as it lies) and a GGUF file, which
is read once and stored as an ordinary checkpoint in the cache folder: reading it takes longer.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from toplora_train.config.folders import cache_folder

logger = logging.getLogger(__name__)


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, found without importing it; None if there is none."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def packaged_checkpoint(package: str) -> tuple[Path, str] | None:
    """The checkpoint folder that ``package`` provides and a word on where it came from.

    Returns None where the package is not installed or carries no weights.
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
        return target, f"{distribution} {version}, {gguf.suffixes[-2][1:]} dequantised"
    return None


def _convert(gguf: Path, target: Path) -> None:
    """Read a GGUF file into fp32 and store it, whole or not at all."""
    logger.info("reading %s once and keeping it as a plain checkpoint in %s", gguf.name, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        # What is stored is no longer quantised; left in place, these would claim that it is.
        del model.hf_quantizer, model.config.quantization_config
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        if target.exists():  # another process was quicker
            shutil.rmtree(aside)
        else:
            aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
