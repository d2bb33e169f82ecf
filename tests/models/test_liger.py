"""On a CUDA device where there is one, in Triton's interpreter elsewhere."""

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from transformers import BertConfig, BertForSequenceClassification

from tests.interpreter import interpreted_library
from tests.train.test_step import examples, lora_model
from toplora_train.config.errors import UserError
from toplora_train.data.batches import collate
from toplora_train.models.liger import liger_layers, validate_liger, validate_liger_model
from toplora_train.models.tiny import tiny_model
from toplora_train.train.proofs import prove_layers
from toplora_train.train.step import supervised_loss

CUDA = torch.device("cuda")

pytest.importorskip("triton")
with pytest.MonkeyPatch.context() as environment:
    if not torch.cuda.is_available():
        environment.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("liger_kernel.transformers")
    import liger_kernel.ops.backends._triton.rope
    import liger_kernel.ops.rms_norm


@pytest.fixture
def device() -> Iterator[torch.device]:
    if torch.cuda.is_available():
        yield CUDA
        return
    import triton.language as tl

    with interpreted_library() as patch:
        # It is of libdevice, which the interpreter does not have.
        patch.setattr(liger_kernel.ops.rms_norm, "rsqrt", lambda x: 1 / tl.sqrt(x))
        yield torch.device("cpu")


def test_ligers_kernels_compute_the_same_loss_and_gradients(device):
    model = lora_model().to(device)
    prove_layers(
        model,
        collate(examples()[:1], 0),
        settings="trainer.liger=true",
        off="trainer.liger=false",
        changed=liger_layers(model),
        loss=supervised_loss,
        accelerator=Accelerator(cpu=device.type == "cpu"),
    )
    layer = model.get_base_model().model.layers[0]
    x = torch.randn(1, 3, 64, requires_grad=True, device=device)
    with liger_layers(model):
        assert layer.input_layernorm(x).grad_fn.name().startswith("Liger")


def test_afterwards_the_model_and_transformers_are_as_before():
    model = tiny_model()
    names = [type(module).__name__ for module in model.modules()]
    before = [dict(vars(module)) for module in model.modules()]
    keys = list(model.state_dict())
    from transformers.models.llama import modeling_llama

    source = dict(vars(modeling_llama))
    with liger_layers(model):
        assert vars(modeling_llama) != source
        assert list(model.state_dict()) == keys
    assert vars(modeling_llama) == source
    assert [dict(vars(module)) for module in model.modules()] == before
    assert [type(module).__name__ for module in model.modules()] == names


def test_what_liger_cannot_compute_is_refused(monkeypatch: pytest.MonkeyPatch):
    validate_liger(CUDA)
    validate_liger_model(tiny_model())
    with pytest.raises(UserError, match=r"needs a CUDA device, and this runs on cpu"):
        validate_liger(torch.device("cpu"))
    small = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    with pytest.raises(UserError, match=r"no kernels for bert models \(it has for .*llama"):
        validate_liger_model(BertForSequenceClassification(small))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install 'toplora-train\[liger\]'"):
        validate_liger(CUDA)
