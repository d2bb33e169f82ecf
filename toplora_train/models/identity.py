"""A base model's digest, computed from its files rather than its settings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from toplora_train.models.folder import INDEX, shards
from toplora_train.models.locate import ModelLocation
from toplora_train.models.tiny import tiny_config, tiny_model

LENGTH = 8  # bytes of a safetensors file that hold its header's length


def model_digest(location: ModelLocation) -> str:
    """A SHA-256 that identifies the model, in hexadecimal.

    Covers ``config.json``, the weights index and the header (names, dtypes, shapes and offsets of
    the tensors) of every safetensors file that is read, but not the weights themselves; for the
    built-in model, its config and tensors.
    """
    digest = hashlib.sha256()
    if location.folder is None:
        config = {k: v for k, v in tiny_config().to_dict().items() if k != "transformers_version"}
        digest.update(json.dumps(config, sort_keys=True).encode())
        for name, tensor in sorted(tiny_model().state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()
    for name in ("config.json", INDEX):
        file = location.folder / name
        if file.is_file():
            digest.update(file.read_bytes())
    for file in shards(location.folder):
        digest.update(file.name.encode() + _header(file))
    return digest.hexdigest()


def _header(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(int.from_bytes(opened.read(LENGTH), "little"))
