"""Suggestions for unknown names: similar spelling, or the name that other tools use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

SYNONYMS = {
    "base_model": "path",
    "bf16": "mixed_precision",
    "bs": "batch_size",
    "cutoff": "max_length",
    "cutoff_len": "max_length",
    "data_path": "train",
    "eval_steps": "eval_every",
    "fp16": "mixed_precision",
    "global_batch_size": "batch_size",
    "gpus": "processes",
    "gradient_accumulation_steps": "micro_batch_size",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_clip": "max_grad_norm",
    "learning_rate": "lr",
    "logging_steps": "log_every",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_r": "r",
    "lora_rank": "r",
    "lora_target_modules": "target_modules",
    "lr_scheduler": "schedule",
    "lr_scheduler_type": "schedule",
    "max_seq_len": "max_length",
    "max_seq_length": "max_length",
    "max_train_steps": "max_steps",
    "micro_bs": "micro_batch_size",
    "model_name": "path",
    "model_name_or_path": "path",
    "nproc": "processes",
    "num_epochs": "epochs",
    "num_processes": "processes",
    "num_train_epochs": "epochs",
    "out_dir": "output_dir",
    "per_device_train_batch_size": "micro_batch_size",
    "precision": "dtype",
    "rank": "r",
    "save_dir": "output_dir",
    "save_steps": "save_every",
    "save_total_limit": "keep",
    "scheduler": "schedule",
    "steps": "max_steps",
    "torch_dtype": "dtype",
    "train_batch_size": "batch_size",
    "train_file": "train",
    "warmup": "warmup_steps",
    "wd": "weight_decay",
}


def nearest_key(key: str, known: Iterable[str]) -> str | None:
    """The known dotted key that ``key`` most likely stands for.

    Searched in this order: the same name or its synonym in the same group, a similar name there,
    the same name in any group; then looser matches in the same group and anywhere.
    """
    keys = list(known)
    parent, leaf = _split(key)
    siblings = [name for name in keys if _split(name)[0] == parent]
    here = {_split(name)[1]: name for name in reversed(siblings)}
    anywhere = {_split(name)[1]: name for name in reversed(keys)}
    synonym = SYNONYMS.get(leaf)
    alike = next(iter(get_close_matches(leaf, here, n=1, cutoff=0.8)), None)
    for place, names in ((here, (leaf, synonym, alike)), (anywhere, (leaf, synonym))):
        for name in names:
            if name in place:
                return place[name]
    misspelt = _nearest_leaf(leaf, siblings) or _nearest_leaf(leaf, keys)
    if misspelt is None and parent not in ("", *keys):
        return nearest_name(key, keys)
    return misspelt


def nearest_name(name: str, known: Sequence[str]) -> str | None:
    """The known name closest to ``name``, as a whole or by its beginning; None if none is close."""
    whole = get_close_matches(name, known, n=1, cutoff=0.6)
    if whole:
        return whole[0]
    beginnings = {other[: len(name) + 1]: other for other in reversed(known)}
    matches = get_close_matches(name, beginnings, n=1, cutoff=0.7)
    return beginnings[matches[0]] if matches else None


def hint(suggestion: str | None) -> str:
    """The end of an error message."""
    return f"; did you mean '{suggestion}'?" if suggestion else ""


def not_found(what: str, name: str, known: Iterable[str]) -> str:
    """The error message for an unknown name, with the nearest and all known ones."""
    names = list(known)
    guess = hint(nearest_name(name, names)) or ";"
    return f"no {what} named '{name}'{guess} known: {', '.join(names)}"


def _nearest_leaf(leaf: str, siblings: Sequence[str]) -> str | None:
    spelt: dict[str, str] = {}
    for name in siblings:
        spelt.setdefault(_split(name)[1], name)
    spelt |= {
        other: spelt[meant]
        for other, meant in SYNONYMS.items()
        if meant in spelt and other not in spelt
    }
    match = nearest_name(leaf, list(spelt))
    return spelt[match] if match else None


def _split(key: str) -> tuple[str, str]:
    parent, _, leaf = key.rpartition(".")
    return parent, leaf
