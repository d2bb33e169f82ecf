import math

import pytest
import torch

from tests.train.test_loop import start_training
from tests.train.test_step import CPU, adamw, lora_model
from toplora_train.adapters.attach import adapter_names, attach_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.models.tiny import tiny_model
from toplora_train.train.spikes import LossTrend
from toplora_train.train.training_stats import (
    effective_ranks,
    module_of,
    trainable_tensors,
    training_stats,
)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_equal_singular_values_give_their_number_as_effective_rank(rank: int):
    A = torch.linalg.qr(torch.randn(20, 8))[0].T.contiguous()
    B = torch.linalg.qr(torch.randn(30, 8))[0]
    B[:, rank:] = 0
    assert effective_ranks([(A, B)]) == pytest.approx([rank], rel=1e-6)


def test_the_effective_rank_is_that_of_the_whole_matrix():
    torch.manual_seed(1)
    pairs = [(torch.randn(r, 20), torch.randn(30, r)) for r in (5, 2)]
    expected = []
    for A, B in pairs:
        values = torch.linalg.svdvals((B @ A).double())[: len(A)]
        shares = values / values.sum()
        expected.append(math.exp(-(shares * shares.log()).sum()))
    found = effective_ranks([*pairs, (torch.randn(3, 20), torch.zeros(30, 3))])
    assert found == pytest.approx([*expected, 0.0], rel=1e-5)


def test_norms_are_of_the_adapter_and_of_each_modules_update():
    model = lora_model()
    before = trainable_tensors(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.add_(0.5 if "layers.1.self_attn.v_proj" in name else 0.1)
    stats = training_stats(model, before, LossTrend(spikes=2), CPU)
    flat = torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])
    assert stats["adapter_norm"] == pytest.approx(flat.double().norm().item(), rel=1e-6)
    assert stats["update_norm_largest_layer"] == "model.layers.1.self_attn.v_proj"
    size = model.get_submodule("base_model.model.model.layers.1.self_attn.v_proj").lora_A.default
    assert stats["update_norm_largest"] == pytest.approx(0.5 * math.sqrt(size.weight.numel()), 1e-5)
    assert stats["update_norm_smallest"] < stats["update_norm_largest"]
    assert 0 < stats["effective_rank_smallest"] <= stats["effective_rank"] <= 4
    assert stats["loss_spikes"] == 2


@pytest.mark.parametrize("modules", [["q_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"]])
def test_the_device_is_read_twice_however_many_modules_are_adapted(monkeypatch, modules):
    settings = adapter_defaults("lora")[0] | {"target_modules": modules}
    model = attach_adapter(tiny_model(), settings, seed=0)
    reads = []
    for method in ("cpu", "tolist"):
        real = getattr(torch.Tensor, method)

        def counted(tensor, real=real):
            reads.append(real.__name__)
            return real(tensor)

        monkeypatch.setattr(torch.Tensor, method, counted)
    training_stats(model, trainable_tensors(model), LossTrend(), CPU)
    assert sorted(reads) == ["cpu", "tolist"]


@pytest.mark.parametrize("name", [name for name in adapter_names() if name != "fusion"])
def test_every_adapter_has_training_stats(name: str):
    settings, _ = adapter_defaults(name)
    if name == "peft":
        settings |= {"peft_type": "LOHA", "settings": {"r": 4, "target_modules": ["q_proj"]}}
    if name == "alora":
        settings["invocation_tokens"] = [11, 12]
    model = attach_adapter(tiny_model(), settings, seed=1)
    stats = training_stats(model, trainable_tensors(model), LossTrend(), CPU)
    assert (stats["adapter_norm"] > 0) == (name != "sbora")  # all that it trains is zero
    assert stats["update_norm_largest"] == 0
    fixed = ("lora", "alora", "genlora", "tenslora", "sbora", "orthogonal")
    assert ("effective_rank" in stats) == (name in fixed)


def test_a_shared_tensor_keeps_its_own_name():
    assert module_of("base_model.tenslora_core.default") == "tenslora_core"
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight"
    assert module_of(name) == module_of(f"module.{name}") == "model.layers.0.mlp.up_proj"


def test_training_stats_are_recorded_at_logged_steps_only(tmp_path):
    model = lora_model()
    for record in start_training(model, adamw(model), tmp_path, log_every=3, total_steps=4):
        assert bool(record.training_stats) == record.logged
