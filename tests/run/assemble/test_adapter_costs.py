"""Every adapter is counted on the same modules and matches the published counts."""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tests.adapters.test_contract import defaults
from toplora_train.adapters.attach import parameter_counter
from toplora_train.models.tiny import tiny_model
from toplora_train.run.assemble.adapter_costs import ADAPTERS, compare_adapters, counter

PUBLISHED = {  # 768 wide, 12 layers, 12 heads, one rank in every mode
    4: {
        "lora": 221_184,
        "tenslora att": 123_840,
        "tenslora qkv": 74_640,
        "tenslora depth": 18_768,
        "tenslora att_qkv": 43_728,
        "tenslora att_depth": 11_040,
        "tenslora qkv_depth": 6_460,
        "tenslora att_qkv_depth": 4_460,
        "tenslora att_qkv_depth, cp": 3_436,
    },
    8: {
        "lora": 442_368,
        "tenslora att": 261_504,
        "tenslora qkv": 153_888,
        "tenslora depth": 38_688,
        "tenslora att_qkv": 130_464,
        "tenslora att_depth": 32_832,
        "tenslora qkv_depth": 16_504,
        "tenslora att_qkv_depth": 39_640,
        "tenslora att_qkv_depth, cp": 6_872,
    },
}


def encoder() -> RobertaForSequenceClassification:
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    with torch.device("meta"):
        return RobertaForSequenceClassification(RobertaConfig(**sizes, intermediate_size=3072))


@pytest.mark.parametrize("rank", [pytest.param(4, marks=pytest.mark.slow), 8])
def test_the_published_counts_are_reproduced(rank: int, monkeypatch: pytest.MonkeyPatch):
    module = "toplora_train.run.assemble.adapter_costs"
    monkeypatch.setattr(f"{module}.ADAPTERS", ("lora", "tenslora"))  # those published
    # No rank has so few parameters, so none is searched for.
    compared = compare_adapters(encoder(), defaults("lora", r=rank, budget=1))
    found = {line.name: line.parameters for line in compared.lines}
    assert {name: found[name] for name in PUBLISHED[rank]} == PUBLISHED[rank]
    assert compared.rank == f"r = {rank}"


LAYERS = 5
WITH_LAYERS = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": LAYERS}


@pytest.fixture(scope="module")
def decoder() -> LlamaForCausalLM:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**WITH_LAYERS, **heads, vocab_size=50))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in ("dora", "toplora", "gralora", "unilora")),
        ("tenslora", {"construction": "depth"}),
        ("tenslora", {"construction": "qkv_depth", "factorization": "cp"}),
        ("toplora", {"target_modules": "all-linear"}),
        ("lora", {"layers_to_transform": [1, 4]}),
        ("lora", {"target_modules": r".*layers\.[24]\.self_attn\.q_proj"}),
        ("lora", {"target_modules": r".*layers\.[0-3]\.self_attn\.q_proj"}),
    ],
)
def test_a_few_layers_tell_how_many_parameters_all_have(decoder, name, changes):
    settings = defaults(name, **changes)
    assert counter(decoder)(settings) == parameter_counter(decoder)(settings)


def test_all_adapters_come_near_the_budget_of_the_run():
    compared = compare_adapters(tiny_model(), defaults("toplora", budget="20k"))
    assert compared.budget == "20k"
    assert {line.name.split()[0] for line in compared.lines} == set(ADAPTERS)
    fitted = [line for line in compared.lines if line.refusal is None]
    assert all(abs(line.miss) < 0.25 for line in fitted)


def test_a_method_that_is_not_shipped_is_listed_as_configured():
    model, vera = tiny_model(), defaults("peft", peft_type="VERA", settings={"r": 64})
    line = compare_adapters(model, vera).lines[-1]
    assert (line.name, line.parameters) == ("vera", parameter_counter(model)(vera))
    assert line.parameters > 0


def test_an_impossible_adapter_has_a_reason_instead_of_a_count():
    compared = compare_adapters(tiny_model(), defaults("lora", target_modules=["up_proj"]))
    reasons = {line.name: line.refusal for line in compared.lines}
    assert reasons["lora"] is None
    assert compared.budget == "lora_r8"
    assert (
        "below the smallest adapter"
        in compare_adapters(tiny_model(), defaults("lora", budget=400)).lines[0].refusal
    )
