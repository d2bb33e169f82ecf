"""Suggestions for unknown names: similar spelling, or the name that other tools use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

OTHER_NAMES = {
    "path": "base_model model_name model_name_or_path",
    "mixed_precision": "bf16 fp16",
    "batch_size": "bs global_batch_size train_batch_size",
    "max_length": "cutoff cutoff_len max_seq_len max_seq_length",
    "train": "data_path train_file",
    "eval_every": "eval_steps",
    "processes": "gpus nproc num_processes",
    "micro_batch_size": "gradient_accumulation_steps micro_bs per_device_train_batch_size",
    "activation_checkpointing": "gradient_checkpointing",
    "max_grad_norm": "gradient_clip",
    "lr": "learning_rate",
    "log_every": "logging_steps",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "r": "lora_r lora_rank rank",
    "target_modules": "lora_target_modules",
    "schedule": "lr_scheduler lr_scheduler_type scheduler",
    "max_steps": "max_train_steps steps",
    "epochs": "num_epochs num_train_epochs",
    "output_dir": "out_dir save_dir",
    "dtype": "precision torch_dtype",
    "save_every": "save_steps",
    "keep": "save_total_limit",
    "warmup_steps": "warmup",
    "weight_decay": "wd",
}
"""Our keys, each with the names that other tools have for it."""
SYNONYMS = {other: ours for ours, others in OTHER_NAMES.items() for other in others.split()}


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
