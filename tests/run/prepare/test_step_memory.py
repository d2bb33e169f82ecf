from dataclasses import replace

import pytest
import torch

from toplora_train.config.schema import LaunchSettings
from toplora_train.models.tiny import tiny_config, tiny_model
from toplora_train.run.platform.cpu_malloc import HOLES
from toplora_train.run.prepare.step_memory import (
    StepMemory,
    UnknownStepError,
    compute_dtype,
    embedding_parameters,
    rows_of_length,
    step_memory,
)


def made(config, **changes) -> StepMemory:
    settings = dict(
        parameters=1_000,
        embeddings=100,
        trainable=10,
        layers=9,
        activations=lambda rows: 1_000 * rows,
    )
    return StepMemory(config, **(settings | changes))


def test_a_pass_has_the_micro_batchs_rows_and_no_more_than_a_devices_share(make_run):
    config = make_run()
    config = replace(config, trainer=replace(config.trainer, batch_size=8, micro_batch_size=4))
    assert made(config).of_each(1, "ddp").activations == 4_000
    assert made(config).of_each(8, "ddp").activations == 1_000


def test_a_cpus_heap_keeps_more_than_the_tensors_unless_memory_is_returned(make_run):
    config = make_run()
    step = made(config, process=5)
    alone = step.of_each(1, "ddp")
    assert alone.heap == round(HOLES * alone.activations)
    assert step.of_each(2, "fsdp2").heap == 0
    saving = replace(config, trainer=replace(config.trainer, activation_checkpointing=True))
    assert made(saving, process=5).of_each(1, "ddp").heap == 0
    assert made(config).of_each(1, "ddp").heap == 0  # a GPU


def test_shards_that_wait_on_the_cpu_take_no_memory_of_the_device(make_run):
    config = make_run(launch=LaunchSettings(engine="fsdp2", processes=8))
    waiting = replace(config, launch=replace(config.launch, offload="cpu"))
    on, off = (made(one).of_each(8, "fsdp2").weights for one in (config, waiting))
    assert on - off == 4 * 1_000 // 8


def test_a_model_that_needs_values_has_an_unknown_step(make_run):
    def loss(*_):
        raise KeyError("a value")

    with torch.device("meta"):
        model = tiny_model()

    class Adapted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base = model

        def get_base_model(self):
            return self.base

    config = make_run()
    batches, _ = rows_of_length(config, model, 4)
    step = step_memory(Adapted(), config, batches, loss, parameters=1, embeddings=1, process=0)
    with pytest.raises(UnknownStepError, match="KeyError: 'a value'"):
        step.of_each(1, "ddp")


def test_rows_that_are_not_at_hand_have_a_length_and_are_all_supervised(make_run):
    make_batch, _ = rows_of_length(make_run(), tiny_model(), 5)
    batch = make_batch(3)
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "input_ids": (3, 5),
        "attention_mask": (3, 5),
        "labels": (3, 5),
    }


def test_products_are_computed_in_autocasts_dtype_or_the_models(make_run):
    config = make_run()
    assert compute_dtype(config) == "float32"
    half = replace(config, trainer=replace(config.trainer, mixed_precision="bf16"))
    assert compute_dtype(half) == "bfloat16"


def test_tied_embeddings_are_counted_once():
    config = tiny_config()
    assert embedding_parameters(tiny_model()) == 2 * config.vocab_size * config.hidden_size
    model = tiny_model()
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    assert embedding_parameters(model) == config.vocab_size * config.hidden_size
