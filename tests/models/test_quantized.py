"""Base models in 4 and 8 bits; evaluating a layer before training keeps its gradients right."""

import copy
import importlib.util

import pytest
import torch
from peft import LoraConfig, get_peft_model

from toplora_train.adapters._peft.dora import frozen_weight
from toplora_train.config.errors import UserError
from toplora_train.models.head import Head
from toplora_train.models.load import load_model
from toplora_train.models.locate import ModelLocation
from toplora_train.models.quantized import keep_trainable
from toplora_train.models.tiny import tiny_model

TINY = ModelLocation("toplora-train/tiny", None, "built in")

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")


def layer() -> torch.nn.Module:
    torch.manual_seed(0)
    made = bitsandbytes.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32)
    made.load_state_dict(torch.nn.Linear(64, 64, bias=False).state_dict())
    return torch.nn.Sequential(made.to("cpu")).eval()


def test_a_layer_evaluated_before_training_has_the_right_gradient():
    model = layer()
    keep_trainable(model)
    x = torch.randn(3, 64, requires_grad=True)
    with torch.no_grad():
        rows = model(torch.eye(64)).T
        assert torch.allclose(model(x), x @ rows.T, atol=1e-5)
    model.train()(x).sum().backward()
    assert torch.allclose(x.grad, rows.sum(dim=0).expand(3, 64), atol=1e-5)


def test_a_repacked_layer_is_refused_by_name():
    model = layer()
    model[0].weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(
        UserError, match=r"^0 is a 4-bit layer that was already evaluated on the CPU"
    ):
        keep_trainable(model)


def test_other_layers_are_not_changed():
    keep_trainable(torch.nn.Sequential(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize(("bits", "bound"), [("4bit", 0.2), ("8bit", 0.02)])
def test_linear_layers_are_quantised_and_logits_stay_close(bits: str, bound: float):
    model = load_model(TINY, dtype="float32", quantization=bits)
    expected = bitsandbytes.nn.Linear4bit if bits == "4bit" else bitsandbytes.nn.Linear8bitLt
    projections = [m for n, m in model.named_modules() if n.endswith("_proj")]
    assert projections and all(type(module) is expected for module in projections)
    assert type(model.lm_head) is torch.nn.Linear
    assert model.num_parameters() == tiny_model().num_parameters()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        found, whole = model(ids).logits, tiny_model().eval()(ids).logits
    assert 0 < (found - whole).norm() < bound * whole.norm()


def test_loading_twice_gives_the_same_model():
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        first, again = (
            load_model(TINY, dtype="float32", quantization="4bit")(ids).logits for _ in range(2)
        )
    assert torch.equal(first, again)


def test_a_head_is_not_quantised():
    model = load_model(TINY, dtype="float32", quantization="4bit", head=Head(("no", "yes"), 0))
    assert type(model.score) is torch.nn.Linear
    assert type(model.model.layers[0].mlp.up_proj) is bitsandbytes.nn.Linear4bit


def test_without_bitsandbytes_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name)
    )
    with pytest.raises(
        UserError, match=r"^model\.quantization=4bit needs .*toplora-train\[quant\]"
    ):
        load_model(TINY, dtype="float32", quantization="4bit")


def test_an_8_bit_layer_on_the_cpu_computes_after_its_weight_was_read():
    torch.manual_seed(0)
    made = bitsandbytes.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)
    made.load_state_dict(torch.nn.Linear(64, 64, bias=False).state_dict())
    config = LoraConfig(target_modules=["0"])
    adapted = get_peft_model(torch.nn.Sequential(made.to("cpu")), config).base_model.model[0]
    x = torch.randn(3, 64)
    with torch.no_grad():
        before = adapted(x)
        weight = frozen_weight(adapted)
        assert torch.allclose(x @ weight.T, before, atol=0.05)
        assert torch.equal(adapted(x), before)


@pytest.mark.parametrize("computed", [False, True], ids=["loaded", "evaluated"])
def test_8_bit_layers_compute_with_the_weights_that_were_moved(computed: bool):
    model = load_model(TINY, dtype="float32", quantization="8bit")
    ids = torch.arange(10, 40)[None]
    if computed:
        model(ids)
    moved = copy.deepcopy(model)
    layer = moved.model.layers[0].mlp.up_proj
    moved._apply(torch.clone)  # as to(device) does it, without another device
    held = layer.state if computed else layer.weight
    assert held.CB.data_ptr() == layer.weight.data_ptr()
    assert held.SCB.device == layer.weight.device
    assert torch.equal(moved(ids).logits, model(ids).logits)
