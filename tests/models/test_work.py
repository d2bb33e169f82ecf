import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from toplora_train.models.tiny import tiny_config, tiny_model
from toplora_train.models.work import product_speed, training_flops


def test_training_flops_equal_torchs_count_for_a_frozen_model():
    """Torch counts the forward pass, and the backward pass to the embeddings' output."""
    model, config = tiny_model(), tiny_config()
    model.requires_grad_(False)
    model.set_attn_implementation("eager")  # which also computes masked positions
    ids = torch.randint(2, 258, (1, 200))
    embedded = model.get_input_embeddings()(ids).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=embedded, use_cache=False).logits.sum().backward()
    embeddings = {
        id(m.weight): m.weight.numel()
        for m in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    counted = training_flops(
        [200],
        supervised=200,
        body=model.num_parameters() - sum(embeddings.values()),
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        activation_checkpointing=False,
    )
    attention = 6 * config.num_hidden_layers * config.hidden_size * 200**2
    assert counted + attention == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_activation_checkpointing_adds_a_forward_pass():
    settings = dict(supervised=0, body=100, hidden=0, layers=0, vocabulary=0)
    kept = training_flops([10], activation_checkpointing=False, **settings)
    again = training_flops([10], activation_checkpointing=True, **settings)
    assert (kept, again) == (4 * 100 * 10, 6 * 100 * 10)


def test_product_speed_is_positive_and_the_same_for_all_plans_of_a_process():
    first, second = (
        product_speed(torch.device("cpu"), torch.float32, tokens=8, hidden=16) for _ in range(2)
    )
    assert first == second > 0
