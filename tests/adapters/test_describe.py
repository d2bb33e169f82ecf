"""Descriptions of an adapter agree with its tensors."""

import pytest
import torch
from transformers import LlamaForCausalLM

from toplora_train.adapters.attach import adapter_names, attach_adapter
from toplora_train.adapters.base import FrozenTensors
from toplora_train.adapters.describe import (
    adapter_state,
    count_adapter_parameters,
    describe_adapter,
    trainable_parameters_by_module,
)
from toplora_train.models.embedding import resize_embeddings
from toplora_train.models.tiny import tiny_config, tiny_model

OURS = [name for name in adapter_names() if name not in ("alora", "fusion", "peft")]


@pytest.mark.parametrize("name", OURS)
def test_the_counts_agree_with_each_other_and_with_the_tensors(name: str):
    model = attach_adapter(tiny_model(), {"name": name, "r": 4}, seed=1)
    counted = count_adapter_parameters(model)
    base = sum(parameter.numel() for parameter in tiny_model().parameters())
    assert model.get_nb_trainable_parameters() == (counted, counted + base)
    assert sum(trainable_parameters_by_module(model).values()) == counted
    assert describe_adapter(model)["trainable_parameters"] == counted
    frozen = sum(
        t.numel() for m in model.modules() if isinstance(m, FrozenTensors) for t in m.buffers()
    )
    assert (frozen > 0) == (name in ("orthogonal", "sbora"))
    assert sum(tensor.numel() for tensor in adapter_state(model).values()) == counted + frozen


def test_parameters_are_counted_by_module_or_as_shared():
    tenslora = attach_adapter(tiny_model(), {"name": "tenslora", "r": 4}, seed=1)
    assert set(trainable_parameters_by_module(tenslora)) == {"shared"}
    lora = attach_adapter(tiny_model(), {"name": "lora", "r": 4}, seed=1)
    # two layers; a rank of 4 between 64 inputs and 64, 32 and 32 outputs
    assert trainable_parameters_by_module(lora) == {
        "q_proj": 2 * 4 * 128,
        "k_proj": 2 * 4 * 96,
        "v_proj": 2 * 4 * 96,
    }


def test_modules_to_save_are_counted_by_module_but_not_as_the_adapter():
    settings = {"name": "lora", "r": 4, "modules_to_save": ["lm_head"]}
    model = attach_adapter(tiny_model(), settings, seed=1)
    head = tiny_model().lm_head.weight.numel()
    own = count_adapter_parameters(model)
    assert model.get_nb_trainable_parameters()[0] == own + head
    assert describe_adapter(model)["trainable_parameters"] == own + head


@pytest.mark.parametrize("meta", [False, True])
def test_tied_tables_that_are_trained_are_counted_once(meta: bool):
    config = tiny_config()
    config.tie_word_embeddings = True
    with torch.device("meta" if meta else "cpu"):
        base = LlamaForCausalLM(config)
    rows = config.vocab_size + 3
    resize_embeddings(base, rows)
    model = attach_adapter(base, {"name": "toplora", "r": 4}, seed=1)
    table = rows * config.hidden_size
    own = count_adapter_parameters(model)
    assert describe_adapter(model)["trainable_parameters"] == own + table
    assert sum(trainable_parameters_by_module(model).values()) == own + table
    assert trainable_parameters_by_module(model)["embed_tokens"] == table


def test_counts_on_the_meta_device_are_the_same():
    with torch.device("meta"):
        empty = tiny_model().to("meta")
    model = attach_adapter(empty, {"name": "toplora", "r": 4}, seed=1)
    there = attach_adapter(tiny_model(), {"name": "toplora", "r": 4}, seed=1)
    assert model.get_nb_trainable_parameters() == there.get_nb_trainable_parameters()


@pytest.mark.parametrize(("name", "merges"), [("lora", True), ("toplora", False)])
def test_mergeable_is_reported(name: str, merges: bool):
    model = attach_adapter(tiny_model(), {"name": name}, seed=1)
    assert describe_adapter(model)["mergeable"] is merges
    assert describe_adapter(model)["peft_type"] == name.upper()
