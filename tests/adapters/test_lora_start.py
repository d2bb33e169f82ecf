"""Initialisations from base weights train as PEFT's do, without changing the base."""

from pathlib import Path

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.describe import count_adapter_parameters, describe_adapter
from toplora_train.adapters.saving import save_adapter
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model

IDS = torch.arange(24).reshape(2, 12) % 7 + 40
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


def ours(init: str, **settings) -> PeftModel:
    settings = {"name": "lora", "r": 4, "alpha": 8, "dropout": 0.0, "init": init, **settings}
    return attach_adapter(tiny_model(), settings, seed=1)


def theirs(init: str, **settings) -> PeftModel:
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "k_proj", "v_proj"],
        init_lora_weights=init,
        task_type="CAUSAL_LM",
        **settings,
    )
    return peft.get_peft_model(tiny_model(), config)


def loss(model: PeftModel) -> torch.Tensor:
    return model(input_ids=IDS, labels=IDS).loss


def half_trained(model: PeftModel, steps: int = 3) -> PeftModel:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_training_equals_pefts(init: str, dora: bool):
    name = "dora" if dora else "lora"
    found = half_trained(ours(init, name=name, target_modules=["q_proj", "k_proj", "v_proj"]))
    expected = half_trained(theirs(init, use_dora=dora))
    start = tiny_model().eval()(input_ids=IDS).logits
    logits = found(input_ids=IDS).logits
    assert not torch.allclose(logits, start, atol=1e-2)  # it has learned something
    torch.testing.assert_close(logits, expected(input_ids=IDS).logits, **CLOSE)


def test_the_randomised_svd_is_close_to_the_exact_one():
    exact, fast = ours("pissa"), ours("pissa_niter_16")
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    products = [
        layer.lora_B["default"].trained @ layer.lora_A["default"].trained
        for layer in (exact.get_submodule(name), fast.get_submodule(name))
    ]
    assert 0.99 * products[0].norm() <= products[1].norm() <= products[0].norm()
    assert not torch.equal(products[0], products[1])


@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_file_is_a_plain_lora_of_twice_the_rank_that_peft_loads_by_itself(
    use_rslora: bool, tmp_path: Path
):
    model = half_trained(ours("pissa", use_rslora=use_rslora, rank_pattern={"k_proj": 2}))
    save_adapter(model, tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), str(tmp_path)).eval()
    config = loaded.peft_config["default"]
    assert (config.r, config.init_lora_weights, config.rank_pattern) == (8, True, {"k_proj": 4})
    assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_only_the_trained_half_is_counted_and_trained():
    model, plain = ours("olora"), ours("kaiming")
    assert count_adapter_parameters(model) == count_adapter_parameters(plain)
    assert describe_adapter(model) == describe_adapter(plain)
    frozen = {n: b.clone() for n, b in model.named_buffers() if n.endswith(".frozen")}
    half_trained(model)
    assert frozen
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    for name, buffer in model.named_buffers():
        if name in frozen:
            assert torch.equal(buffer, frozen[name])


def test_a_checkpoint_restores_both_halves():
    model = half_trained(ours("pissa"))
    other = ours("pissa_niter_16").eval()
    set_peft_model_state_dict(other, get_peft_model_state_dict(model, save_embedding_layers=False))
    assert torch.equal(other(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_on_the_meta_device_it_has_the_same_shapes():
    settings = {"name": "lora", "r": 4, "init": "pissa"}
    empty = attach_adapter(tiny_model().to("meta"), settings, seed=1)
    assert count_adapter_parameters(empty) == count_adapter_parameters(ours("pissa"))


def test_a_rank_above_the_smaller_side_is_refused():
    with pytest.raises(UserError, match=r"^adapter\.r must be at most 32, the smaller side of .*k"):
        ours("pissa", r=33, target_modules=["k_proj"])


def test_a_layer_that_is_not_linear_is_refused():
    with pytest.raises(UserError, match=r"^adapter\.init 'pissa' is for linear layers; .*embed"):
        ours("pissa", target_modules=["embed_tokens"])
