"""Measure the cost of an adapter in a training step: time and activation memory.

    python benchmarks/adapter_step.py [--hidden 576] [--layers 4] [--tokens 1024] [--repeats 7]

Every method, with non-zero weights, does forward and backward passes on the same tokens in a random
Llama. Methods are interleaved within each repeat, so that machine noise affects all equally; the
minimum over repeats is reported relative to PEFT's LoRA, with the A/A spread of the base model.
Parity: TopLoRA without its gate and with LoRA's weights must have LoRA's loss. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from toplora_train.adapters.attach import adapter_names, attach_adapter
from toplora_train.config.adapter import adapter_defaults


def base_model(hidden: int, layers: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 192),
        use_cache=False,
    )
    return LlamaForCausalLM(config).requires_grad_(False).train()


def adapted(name: str, hidden: int, layers: int, **changes: object) -> nn.Module:
    settings = adapter_defaults(name)[0] | {"dropout": 0.0} | changes
    model = attach_adapter(base_model(hidden, layers), settings, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.abs().sum() == 0:
                parameter.normal_(0, 0.01, generator=generator)
    return model


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def step(model: nn.Module, inputs: torch.Tensor) -> float:
    model.zero_grad()
    loss = model(inputs_embeds=inputs, logits_to_keep=1).logits.float().logsumexp(-1).mean()
    loss.backward()
    return float(loss.detach())


def kept_bytes(model: nn.Module, inputs: torch.Tensor) -> int:
    """Bytes of the distinct tensors that autograd saves, excluding weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # so that no storage address is reused

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(inputs_embeds=inputs, logits_to_keep=1).logits.sum()
    return sum(kept.values())


def timed(run: Callable[[], float]) -> tuple[float, float]:
    began = time.perf_counter()
    loss = run()
    return time.perf_counter() - began, loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()

    size = (arguments.hidden, arguments.layers)
    models: dict[str, nn.Module] = {"base": base_model(*size), "base again": base_model(*size)}
    models |= {name: adapted(name, *size) for name in adapter_names() if name != "peft"}
    plain = adapter_defaults("toplora")[0]["gate"] | {"enabled": False}
    models["toplora without gate"] = adapted("toplora", *size, gate=plain)
    with torch.no_grad():
        for mine, lora in zip(
            *map(trained, (models["toplora without gate"], models["lora"])), strict=True
        ):
            mine.copy_(lora)
    torch.manual_seed(2)
    inputs = torch.randn(4, arguments.tokens // 4, arguments.hidden).requires_grad_()

    best = dict.fromkeys(models, float("inf"))
    losses: dict[str, float] = {}
    for _ in range(arguments.repeats):
        for name, model in models.items():
            seconds, losses[name] = timed(lambda model=model: step(model, inputs))
            best[name] = min(best[name], seconds)
    kept = {name: kept_bytes(model, inputs) for name, model in models.items()}
    print(
        json.dumps(
            {
                "settings": vars(arguments) | {"threads": torch.get_num_threads()},
                "aa_spread": abs(best["base"] / best["base again"] - 1),
                "parity": abs(losses["toplora without gate"] - losses["lora"]),
                "step_over_lora": {name: t / best["lora"] for name, t in best.items()},
                "step_over_base": {name: t / best["base"] for name, t in best.items()},
                "kept_over_base": {name: b / kept["base"] for name, b in kept.items()},
                "trainable": {
                    name: model.get_nb_trainable_parameters()[0]
                    for name, model in models.items()
                    if not name.startswith("base")
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
