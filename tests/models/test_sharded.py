"""Two processes hold halves of each model, and compute what one computes.

The checks that need both run in one pair of forks, in the order of this file; each leaves its
traceback, if there is one, for the test of the same name.
"""

import traceback
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
)

from tests.processes import in_two_processes
from toplora_train.config.errors import UserError
from toplora_train.config.schema import LaunchSettings
from toplora_train.evaluation.decoding.decode import generate
from toplora_train.evaluation.forward import evaluating
from toplora_train.models.head import Head
from toplora_train.models.layers import repeated_layers
from toplora_train.models.load import load_model
from toplora_train.models.locate import ModelLocation
from toplora_train.models.sharded import Shards, gathered, in_step, is_sharded, shard, to_device
from toplora_train.models.tiny import tiny_config, tiny_model, tiny_tokenizer
from toplora_train.run.platform.device import open_shards

IDS = torch.arange(2, 38).view(3, 12)


def save_models(folder: Path) -> None:
    """One of each kind: untied, tied in bf16, tied with transposed layers, with a classifier."""
    config = tiny_config()
    config.tie_word_embeddings = True
    small = {"vocab_size": 259, "hidden_size": 32, "num_attention_heads": 2}
    torch.manual_seed(1)
    models = {
        "untied": tiny_model(),
        "tied": LlamaForCausalLM(config).to(torch.bfloat16),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=259, n_embd=32, n_layer=3, n_head=2)),
        "bert": BertForSequenceClassification(
            BertConfig(**small, num_hidden_layers=2, intermediate_size=64)
        ),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)


def pair(folder: Path, name: str, shards: Shards, **how):
    """The model read whole, and sharded."""
    location = ModelLocation(name, folder / name, "local folder")
    how = {"dtype": "bfloat16" if name == "tied" else "float32"} | how
    return load_model(location, **how), load_model(location, shards=shards, **how)


def each_process_holds_its_rows(folder: Path, shards: Shards) -> None:
    for name in ("untied", "tied", "gpt2"):
        whole, half = pair(folder, name, shards)
        assert is_sharded(half)
        assert not is_sharded(whole)
        expected = dict(whole.named_parameters())
        for key, parameter in half.named_parameters():
            assert isinstance(parameter, DTensor)
            assert len(parameter.to_local()) <= (len(expected[key]) + 1) // 2
            assert torch.equal(parameter.full_tensor(), expected[key])


def logits_are_those_of_the_whole_model(folder: Path, shards: Shards) -> None:
    for name in ("untied", "tied", "gpt2"):
        whole, half = pair(folder, name, shards)
        logits = []
        for model in (whole, half):
            with evaluating(model), torch.inference_mode():
                logits.append(model(IDS).logits)
        assert logits[0].dtype == torch.float32  # of the model in bf16 as well
        torch.testing.assert_close(*logits, rtol=0, atol=1e-6)
        assert all(isinstance(parameter, DTensor) for parameter in half.parameters())


def shards_may_wait_on_the_cpu(folder: Path, shards: Shards) -> None:
    whole, _ = pair(folder, "untied", shards)
    _, half = pair(folder, "untied", replace(shards, offload=True))
    assert to_device(half, shards.device) is half
    for _ in range(2):
        with torch.inference_mode():
            torch.testing.assert_close(whole(IDS).logits, half(IDS).logits, rtol=0, atol=1e-6)
        assert {parameter.device.type for parameter in half.parameters()} == {"cpu"}


def a_new_head_is_that_of_one_process_and_whole(folder: Path, shards: Shards) -> None:
    head = Head(("no", "yes", "maybe"), pad_token_id=0)
    for name in ("untied", "bert"):
        whole, half = pair(folder, name, shards, head=head, seed=5)
        new = {key: p for key, p in half.named_parameters() if not isinstance(p, DTensor)}
        assert new
        for key, parameter in new.items():
            assert torch.equal(parameter, whole.get_parameter(key))
        with torch.inference_mode():
            torch.testing.assert_close(whole(IDS).logits, half(IDS).logits, rtol=0, atol=1e-6)


def processes_may_generate_different_numbers_of_tokens(folder: Path, shards: Shards) -> None:
    whole, half = pair(folder, "untied", shards)
    rank = shards.mesh.get_local_rank()
    prompts = [row.tolist() for row in IDS][: 1 + 2 * rank]
    texts = []
    for model in (whole, half):
        with in_step(model):
            answers = generate(
                model, tiny_tokenizer(), prompts, max_new_tokens=3 + 4 * rank, batch_size=2
            )
            texts.append({one.index: one.text for one in answers})
    assert texts[0] == texts[1]
    assert len(texts[0]) == len(prompts)


def a_layer_can_be_gathered(folder: Path, shards: Shards) -> None:
    whole, half = pair(folder, "untied", shards)
    key = "model.layers.1.mlp.up_proj"
    layer = half.get_submodule(key)
    with gathered(half, layer):
        assert torch.equal(layer.weight, whole.get_submodule(key).weight)
        assert isinstance(half.model.layers[0].mlp.up_proj.weight, DTensor)
    assert isinstance(layer.weight, DTensor)


CHECKS = (
    each_process_holds_its_rows,
    logits_are_those_of_the_whole_model,
    shards_may_wait_on_the_cpu,
    a_new_head_is_that_of_one_process_and_whole,
    processes_may_generate_different_numbers_of_tokens,
    a_layer_can_be_gathered,
)


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> Path:
    """The folder of the tracebacks."""
    folder = tmp_path_factory.mktemp("sharded")
    save_models(folder)
    in_two_processes(folder, run_checks, folder)
    return folder


def run_checks(folder: Path) -> None:
    shards = open_shards(LaunchSettings(engine="fsdp2"), Accelerator(cpu=True))
    for check in CHECKS:
        file = folder / f"{check.__name__}.{shards.mesh.get_local_rank()}"
        try:
            check(folder, shards)
            file.write_text("")
        except Exception:
            file.write_text(traceback.format_exc())
            raise


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_two_processes(checked: Path, check):
    found = [checked / f"{check.__name__}.{rank}" for rank in (0, 1)]
    assert [file.read_text() for file in found] == ["", ""]


def test_a_model_without_repeated_layers_is_refused(monkeypatch):
    model = tiny_model()
    assert repeated_layers(model)
    monkeypatch.setattr(model, "_no_split_modules", set())
    with pytest.raises(UserError, match="use launch=ddp"):
        shard(model, SimpleNamespace(mesh=None), whole=())


def test_one_process_and_the_other_engines_hold_the_whole_model():
    assert open_shards(LaunchSettings(engine="fsdp2"), Accelerator(cpu=True)) is None
    assert not is_sharded(tiny_model())
