import pytest

from toplora_train.models.memory import MemoryEstimate, memory_of_each, weight_bytes
from toplora_train.models.tiny import tiny_config


def test_weights_follow_the_dtype():
    assert weight_bytes(1000, embeddings=100, dtype="float32") == 4000
    assert weight_bytes(1000, embeddings=100, dtype="bfloat16") == 2000


def test_4_bit_layers_take_a_quarter_of_bf16_and_embeddings_are_not_quantised():
    embeddings = 2 * tiny_config().vocab_size * tiny_config().hidden_size
    sizes = {
        form: weight_bytes(
            embeddings + 64_000, embeddings=embeddings, dtype="bfloat16", quantization=form
        )
        - 2 * embeddings
        for form in (None, "8bit", "4bit")
    }
    assert sizes[None] == 128_000
    assert sizes["8bit"] == 64_000
    assert sizes["4bit"] == pytest.approx(33_000, rel=1e-2)


def test_the_total_is_the_sum_of_the_parts():
    assert MemoryEstimate(weights=1, adapter=20, activations=300, process=4_000).total == 4_321


WHOLE = MemoryEstimate(weights=16_000, adapter=1_600, activations=500)


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


def test_offloaded_shards_leave_what_is_gathered():
    kept = memory_of_each(
        WHOLE, engine="fsdp2", devices=8, embeddings=2_000, layers=14, offload=True
    )
    assert kept.weights == 2_000 + 2 * 1_000


def test_a_collective_on_the_cpu_copies_the_largest_unit():
    one, four = (
        memory_of_each(WHOLE, engine="fsdp2", devices=8, embeddings=2_000, layers=14, copies=copies)
        for copies in (1, 4)
    )
    assert four.weights - one.weights == 3 * 2_000
