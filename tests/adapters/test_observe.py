import torch

from tests.adapters.test_contract import attached
from toplora_train.adapters.observe import observe
from toplora_train.contract.subject import shaken


def test_a_layer_is_read_before_it_computes_and_no_hook_stays():
    model = shaken(attached("lora")).eval()
    layer = model.base_model.model.model.layers[1].self_attn.q_proj
    found = observe(model, [5, 9, 30], {"q": layer}, lambda own, x: own.base_layer(x))
    assert found["q"].shape == (3, layer.out_features)
    states = model(torch.tensor([[5, 9, 30]]), output_hidden_states=True).hidden_states
    normed = model.base_model.model.model.layers[1].input_layernorm(states[1])
    torch.testing.assert_close(found["q"], layer.base_layer(normed)[0].detach())
    assert not layer._forward_pre_hooks
