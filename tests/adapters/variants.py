"""Every adapter with every setting that changes its mathematics, by an id, and models to put it on.

The choices are the adapters' own constants, so that a new choice is a new variant.
"""

from collections.abc import Callable

import torch
from peft import PeftModel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GemmaConfig,
    GemmaForCausalLM,
    PreTrainedModel,
)

from toplora_train.adapters import dora, genlora, lora, sbora, tenslora, toplora
from toplora_train.models.tiny import tiny_model


def variants() -> dict[str, tuple[str, dict]]:
    """``id -> (adapter, changed settings)``."""
    found: dict[str, tuple[str, dict]] = {}

    def add(name: str, label: str, **changes) -> None:
        found[f"{name}-{label}"] = (name, changes)

    for name, module in (("lora", lora), ("dora", dora)):
        for init in lora.INITS:
            add(name, init, init=init)
        add(name, "rslora", use_rslora=True)
        add(name, "rank_pattern", rank_pattern={"k_proj": 2, "key": 2}, alpha_pattern=None)
        for norm in getattr(module, "NORMS", ()):
            add(name, f"{norm}_norm", norm=norm)
    for activation in toplora.ACTIVATIONS:
        add("toplora", activation, gate={"activation": activation})
    for norm in toplora.NORMS:
        add("toplora", f"{norm}_norm", gate={"norm": norm})
    for init in toplora.INITS:
        add("toplora", f"{init}_theta", gate={"init": init})
    add("toplora", "paper-bf16", gate={"eps": "paper-bf16"})
    add("toplora", "ungated", gate={"enabled": False})
    add("toplora", "rslora", use_rslora=True)
    for construction in tenslora.CONSTRUCTIONS:
        for factorization in tenslora.FACTORIZATIONS:
            add(
                "tenslora",
                f"{construction}_{factorization}",
                construction=construction,
                factorization=factorization,
                r=3,
            )
    for init in tenslora.INITS:
        add("tenslora", init, init=init)
    for layout in tenslora.HEAD_LAYOUTS:
        add("tenslora", f"{layout}_heads", head_layout=layout, construction="att", r=3)
    for gqa in tenslora.GQA:
        add("tenslora", f"{gqa}_gqa", gqa=gqa)
    add("tenslora", "ranks", ranks=[5, 4, 2, 2])
    for base_term in genlora.BASE_TERMS:
        add("genlora", f"{base_term}_base", base_term=base_term)
    add("genlora", "fixed_grid", learned_grid=False)
    add("genlora", "few_kernels", num_kernels=2, num_groups=1, grid=[-1.0, 1.0])
    for side in sbora.SIDES:
        add("sbora", side, side=side)
    add("sbora", "rank_pattern", rank_pattern={"k_proj": 2, "key": 2}, alpha_pattern=None)
    add("orthogonal", "rslora", use_rslora=True, protect=3)
    return found


VARIANTS = variants()


def settled(changes: dict, kind: str) -> dict:
    """The changes without patterns for modules of other models."""
    pattern = changes.get("rank_pattern")
    if not pattern:
        return changes
    name = "key" if kind == "bert" else "k_proj"
    return {**changes, "rank_pattern": {name: pattern[name]}}


# -- models ----------------------------------------------------------------------------------------


def bert() -> PreTrainedModel:
    """An encoder with a classifier."""
    return _seeded(
        lambda: BertForSequenceClassification(
            BertConfig(
                vocab_size=258,
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=96,
                max_position_embeddings=32,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
    )


def gemma() -> PreTrainedModel:
    """A decoder whose heads exceed the hidden size: 4 x 32 from 64."""
    return _seeded(
        lambda: GemmaForCausalLM(
            GemmaConfig(
                vocab_size=258,
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=1,
                head_dim=32,
                intermediate_size=96,
                max_position_embeddings=64,
                pad_token_id=0,
                bos_token_id=None,
                eos_token_id=1,
            )
        )
    )


def _seeded(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": tiny_model,
    "bert": bert,
    "gemma": gemma,
}

# The projections of a layer of each model, as (inputs, outputs).
SHAPES = {
    "llama": [(64, 64), (64, 32), (64, 32)],
    "bert": [(64, 64), (64, 64), (64, 64)],
    "gemma": [(64, 128), (64, 32), (64, 32)],
}
WIDTHS = {"llama": (64, 4), "bert": (64, 4), "gemma": (128, 4)}  # of all query heads, and how many
LAYERS = 2


def labels(kind: str, ids: torch.Tensor) -> torch.Tensor:
    """Labels to compute a loss with."""
    return torch.tensor([0, 1])[: len(ids)] if kind == "bert" else ids


# -- counts ----------------------------------------------------------------------------------------


def closed_formula(name: str, settings: dict, kind: str) -> int:
    """An adapter's parameter count on a model, from the equations alone."""
    if name == "tenslora":
        return _tensors(settings, kind)
    pattern = list((settings.get("rank_pattern") or {}).values())
    r = settings["r"]
    ranks = [r, *(pattern or [r]), r]  # a pattern applies to the keys
    pairs = list(zip(ranks, SHAPES[kind], strict=True))
    per_layer = {
        "lora": lambda: sum(r * (n + m) for r, (n, m) in pairs),
        "dora": lambda: sum(r * (n + m) + m for r, (n, m) in pairs),
        "toplora": lambda: sum(r * (n + m) + _gate(settings["gate"], r, n) for r, (n, m) in pairs),
        "sbora": lambda: sum(r * (m if settings["side"] == "input" else n) for r, (n, m) in pairs),
        "orthogonal": lambda: sum(r * (n + m) for r, (n, m) in pairs),
        "genlora": lambda: sum(_synthesis(settings, r, n, m) for r, (n, m) in pairs),
    }
    return LAYERS * per_layer[name]()


def _gate(gate: dict, r: int, n: int) -> int:
    gain = 0 if gate.get("norm") == "none" else r
    return r * n + gain if gate.get("enabled", True) else 0


def _synthesis(settings: dict, r: int, n: int, m: int) -> int:
    per_kernel = 6 if settings["learned_grid"] else 2
    base = 0 if settings["base_term"] == "none" else 2 * r * settings["num_groups"]
    return n + m + per_kernel * r * settings["num_groups"] * settings["num_kernels"] + base


def _tensors(settings: dict, kind: str) -> int:
    width, heads = WIDTHS[kind]
    parts = settings["construction"].split("_")
    sizes = [64, *((width // heads, heads) if "att" in parts else (width,))]
    sizes += [3] * ("qkv" in parts) + [LAYERS] * ("depth" in parts)
    tensors = (1 if "qkv" in parts else 3) * (1 if "depth" in parts else LAYERS)
    ranks = settings["ranks"] or [settings["r"]] * len(sizes)
    factors = sum(rank * size for rank, size in zip(ranks, sizes, strict=True))
    core = 0 if settings["factorization"] == "cp" else torch.Size(ranks).numel()
    return tensors * (factors + core)


def converts(model: PeftModel) -> bool:
    """Whether the adapter is, in every module, a product of two matrices of this package."""
    layers = [module for module in model.modules() if hasattr(module, "lora_factors")]
    return bool(layers) and all(layer.can_merge("default") for layer in layers)
