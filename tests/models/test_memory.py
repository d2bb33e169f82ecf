import pytest
import torch

from toplora_train.models.memory import MemoryEstimate, estimate_memory, memory_of_each
from toplora_train.models.tiny import tiny_config, tiny_model


def estimate(**changes):
    settings = dict(
        parameters=1000,
        trainable=10,
        dtype="float32",
        compute_dtype="float32",
        rows=4,
        tokens=100,
        supervised=10,
        activation_checkpointing=False,
    )
    return estimate_memory(tiny_config(), **(settings | changes))


def test_weights_follow_the_dtype_and_the_adapter_includes_its_moments():
    assert estimate().weights == 4000
    assert estimate(dtype="bfloat16").weights == 2000
    assert estimate().adapter == 10 * (4 + 4 + 8)
    parts = estimate()
    assert parts.total == parts.weights + parts.adapter + parts.activations + parts.logits


def test_4_bit_layers_take_a_quarter_of_bf16_and_embeddings_are_not_quantised():
    embeddings = 2 * tiny_config().vocab_size * tiny_config().hidden_size
    sizes = {
        form: estimate(parameters=embeddings + 64_000, dtype="bfloat16", quantization=form).weights
        - 2 * embeddings
        for form in (None, "8bit", "4bit")
    }
    assert sizes[None] == 128_000
    assert sizes["8bit"] == 64_000
    assert sizes["4bit"] == pytest.approx(33_000, rel=1e-2)


def test_activations_are_close_to_what_autograd_keeps():
    """Counts the bytes of distinct storages saved for backward, without parameters."""
    model = tiny_model().train()
    model.requires_grad_(False)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.requires_grad_()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    held = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (held.append(t), keep(t))[1], lambda t: t
    ):
        model(torch.randint(2, 258, (4, 100)), logits_to_keep=1, use_cache=False).logits.sum()
    measured = sum(kept.values())
    assert estimate(supervised=1).activations == pytest.approx(measured, rel=0.5)


def test_checkpointing_needs_less():
    assert estimate(activation_checkpointing=True).activations < estimate().activations


WHOLE = MemoryEstimate(weights=16_000, adapter=1_600, activations=500, logits=100)


def of_each(engine: str, devices: int) -> MemoryEstimate:
    return memory_of_each(WHOLE, engine=engine, devices=devices, embeddings=2_000, layers=14)


@pytest.mark.parametrize("engine", ["ddp", "zero2", "fsdp2"])
def test_a_single_device_needs_the_whole_with_any_engine(engine):
    assert of_each(engine, 1) == WHOLE


def test_stage_2_shards_gradients_and_moments_and_stage_3_the_base_model():
    ddp, zero2, fsdp2 = (of_each(engine, 8) for engine in ("ddp", "zero2", "fsdp2"))
    assert ddp.weights == zero2.weights == WHOLE.weights
    assert ddp.adapter == fsdp2.adapter > zero2.adapter > WHOLE.adapter // 8
    assert fsdp2.weights == 16_000 // 8 + 2_000 + 2 * 1_000
    assert {one.activations for one in (ddp, zero2, fsdp2)} == {500}
    assert of_each("zero3", 8) == fsdp2
