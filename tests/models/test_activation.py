import pytest
import torch
from torch import nn

from toplora_train.config.errors import UserError
from toplora_train.models.activation import checkpoint_activations
from toplora_train.models.tiny import tiny_model


def test_gradients_are_the_same_with_recomputation():
    ids = torch.arange(20, 60)[None]
    gradients = []
    for recompute in (False, True):
        model = tiny_model().train()
        model.requires_grad_(False)
        trained = model.model.layers[0].self_attn.q_proj.weight.requires_grad_()
        if recompute:
            checkpoint_activations(model)
        model(ids, use_cache=False).logits.logsumexp(-1).sum().backward()
        gradients.append(trained.grad)
    assert torch.equal(*gradients)


def test_layers_are_recomputed_in_the_backward_pass():
    model = tiny_model().train()
    checkpoint_activations(model)
    calls = []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    model(torch.arange(20, 60)[None], use_cache=False).logits.sum().backward()
    assert len(calls) == 2


def test_a_model_without_support_is_one_clear_error():
    model = tiny_model()
    model.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match=r"trainer\.activation_checkpointing=false"):
        checkpoint_activations(model)
    assert isinstance(model, nn.Module)
