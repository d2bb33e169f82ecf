"""Activated LoRA by its own name: where it is active, and what it refuses."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from tests.adapters.test_contract import subject
from toplora_train.adapters.describe import describe_adapter
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.config.errors import UserError
from toplora_train.contract.checks import CHECKS
from toplora_train.contract.subject import encoder, logits, shaken, token_ids
from toplora_train.evaluation.decoding.prefix import shares_prompts
from toplora_train.models.activation import checkpoint_activations
from toplora_train.models.tiny import tiny_model

INVOCATION = [11, 12]


def attached(**changes) -> PeftModel:
    return shaken(subject("alora").attached(invocation_tokens=INVOCATION, **changes))


def ids(*places: int) -> torch.Tensor:
    """One row of nine tokens with the invocation at some places."""
    row = token_ids(1, 9)
    for place in places:
        row[0, place : place + 2] = torch.tensor(INVOCATION)
    return row


@pytest.mark.parametrize("claim", [claim for claim in CHECKS if claim.startswith("its YAML")])
def test_it_keeps_the_contract_of_a_yaml(claim: str):
    CHECKS[claim](subject("alora"))


def test_it_is_active_from_the_last_invocation_on_and_loras_there():
    model = attached()
    base = logits(tiny_model(), input_ids=ids(1, 5))
    found = logits(model, input_ids=ids(1, 5))
    torch.testing.assert_close(found[:, :5], base[:, :5])
    assert ((found - base)[:, 5:].abs().amax(-1) > 1e-4).all()
    assert torch.equal(logits(model, input_ids=ids()), logits(tiny_model(), input_ids=ids()))
    lora = shaken(subject("lora").attached())
    whole = ids(0)
    torch.testing.assert_close(logits(model, input_ids=whole), logits(lora, input_ids=whole))


def test_it_reloads_and_does_not_merge(tmp_path: Path):
    model = attached()
    save_adapter(model, tmp_path)
    loaded = load_adapter(tiny_model(), tmp_path)
    assert torch.equal(logits(loaded, input_ids=ids(3)), logits(model, input_ids=ids(3)))
    assert describe_adapter(loaded) == describe_adapter(model)
    assert not describe_adapter(model)["mergeable"]
    with pytest.raises(NotImplementedError, match="aLoRA does not support"):
        model.merge_adapter()


def test_activation_checkpointing_changes_no_gradient():
    found = []
    for checkpointing in (False, True):
        model = attached().train()
        if checkpointing:
            checkpoint_activations(model.get_base_model())
        model(input_ids=ids(3), labels=ids(3)).loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for key, gradient in found[0].items():
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(found[1][key], gradient)


def test_cached_generation_agrees_with_the_logits():
    model, expected = attached(), ids(3)
    assert not shares_prompts(model)
    mask = torch.ones_like(expected)
    generated = model.generate(
        input_ids=expected, attention_mask=mask, max_new_tokens=4, do_sample=False
    )
    for _ in range(generated.shape[1] - expected.shape[1]):
        following = logits(model, input_ids=expected)[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat([expected, following], dim=1)
    assert torch.equal(generated, expected)


def test_what_cannot_be_activated_is_refused():
    with pytest.raises(UserError, match=r"^adapter\.invocation_tokens must be given where no tok"):
        subject("alora").attached()
    with pytest.raises(UserError, match=r"^adapter\.invocation_tokens must be a list of token ids"):
        subject("alora").attached(invocation_tokens="### Response:")
    with pytest.raises(UserError, match=r"^adapter=alora: it is for models that generate text"):
        subject("alora").attached(encoder(), invocation_tokens=INVOCATION)
    with pytest.raises(UserError, match=r"^adapter\.init must be one of kaiming, gaussian, ortho"):
        subject("alora").attached(invocation_tokens=INVOCATION, init="pissa")
