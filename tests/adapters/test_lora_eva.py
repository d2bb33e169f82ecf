"""EVA against the singular vectors of the inputs themselves."""

import pytest
import torch
from peft import PeftModel
from transformers import BertConfig, BertForSequenceClassification

from toplora_train.adapters.attach import attach_adapter, start_from_data
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model

LAYER = "base_model.model.model.layers.1.self_attn.q_proj"


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 250, (8, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[:4, 30:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.full_like(ids, -100)}


def started(name: str = "lora", **settings) -> PeftModel:
    settings = {"name": name, "r": 4, "init": "eva", **settings}
    model = attach_adapter(tiny_model(), settings, seed=1)
    start_from_data(model, settings, [batch()])
    return model.eval()


def inputs_of(model: PeftModel) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(LAYER).register_forward_pre_hook(
        lambda _module, args: seen.append(args[0].detach())
    )
    ids = batch()
    model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"])
    handle.remove()
    return seen[0][ids["attention_mask"].bool()]


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_a_explains_nearly_as_much_variance_as_r_directions_can(name: str):
    A = started(name).get_submodule(LAYER).lora_A["default"].weight
    X = inputs_of(started(name))
    X = X - X.mean(0)  # as PEFT's incremental decomposition does
    torch.testing.assert_close(A @ A.T, torch.eye(4), atol=1e-4, rtol=0)
    most = torch.linalg.svdvals(X)[:4].square().sum()
    held = (X @ A.T).square().sum()
    assert 0.97 * most < held <= most * 1.0001
    at_random = torch.linalg.qr(torch.randn(64, 4)).Q
    assert (X @ at_random).square().sum() < 0.9 * held


def test_it_starts_as_the_base_model_and_saves_as_a_plain_lora():
    model = started()
    ids = batch()["input_ids"]
    assert torch.equal(model(input_ids=ids).logits, tiny_model().eval()(input_ids=ids).logits)
    config = model.peft_config["default"]
    assert (config.r, config.init_lora_weights, config.eva_config) == (4, True, None)


def test_other_initialisations_do_not_use_the_rows():
    settings = {"name": "lora", "r": 4, "init": "kaiming"}
    model = attach_adapter(tiny_model(), settings, seed=1)
    before = model.get_submodule(LAYER).lora_A["default"].weight.clone()
    start_from_data(model, settings, [batch()])
    assert torch.equal(model.get_submodule(LAYER).lora_A["default"].weight, before)


def test_fewer_tokens_than_the_rank_are_refused():
    settings = {"name": "lora", "r": 32, "init": "eva", "target_modules": ["q_proj"]}
    model = attach_adapter(tiny_model(), settings, seed=1)
    short = {name: tensor[:1, :20] for name, tensor in batch().items()}
    with pytest.raises(UserError, match=r"^adapter\.init 'eva' needs r = 32 tokens in a batch"):
        start_from_data(model, settings, [short])


def test_each_layer_keeps_its_own_rank_and_the_config_its_patterns():
    ranks, alphas = {"q_proj": 8, "v_proj": 2}, {"k_proj": 3.0}
    model = started(rank_pattern=ranks, alpha_pattern=alphas)
    config = model.peft_config["default"]
    assert (config.rank_pattern, config.alpha_pattern) == (ranks, alphas)
    layers = [model.get_submodule(LAYER.replace("q_", part)) for part in ("q_", "k_", "v_")]
    q, k, v = (layer.lora_A["default"].weight for layer in layers)
    assert [len(A) for A in (q, k, v)] == [8, 4, 2]
    assert torch.equal(q[:4], k) and torch.equal(q[:2], v)  # they share their input


def test_fewer_tokens_than_the_largest_rank_are_refused():
    settings = {"name": "lora", "r": 4, "init": "eva", "rank_pattern": {"q_proj": 32}}
    model = attach_adapter(tiny_model(), settings, seed=1)
    short = {name: tensor[:1, :20] for name, tensor in batch().items()}
    with pytest.raises(UserError, match=r"^adapter\.init 'eva' needs r = 32 tokens in a batch"):
        start_from_data(model, settings, [short])


def test_fewer_inputs_than_the_rank_are_refused():
    with pytest.raises(UserError, match=r"needs r = 65 inputs in every layer; .*q_proj has 64$"):
        started(r=65)


def test_a_layer_that_is_not_linear_is_refused():
    with pytest.raises(UserError, match=r"^adapter\.init 'eva' is for linear layers; .*embed_tok"):
        started(target_modules=["q_proj", "embed_tokens"])


def test_a_layer_that_is_not_given_every_token_is_refused_unless_excluded():
    size = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4}
    config = BertConfig(vocab_size=250, num_hidden_layers=1, **size)
    settings = {"name": "lora", "r": 4, "init": "eva", "target_modules": ["query", "dense"]}

    def start(**changes) -> None:
        base = BertForSequenceClassification(config)
        model = attach_adapter(base, settings | changes, seed=1)
        start_from_data(model, settings | changes, [batch()])

    line = r"every token, but the input of bert\.pooler\.dense is \(8, 64\) .*exclude_modules$"
    with pytest.raises(UserError, match=line):
        start()
    start(exclude_modules=["pooler.dense"])
