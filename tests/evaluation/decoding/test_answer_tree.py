import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from toplora_train.evaluation.decoding.answer_tree import (
    IN_ONE_PASS,
    UnsharedError,
    answer_logits,
    takes_any_mask,
)
from toplora_train.evaluation.decoding.prefix import NO_PREFIX, compute_prefix

COMMON = [5, 6, 7]
PROMPTS = [[*COMMON, 8, 9], [*COMMON, 40], [*COMMON, 70, 71, 72]]
SHARED = [11, 12]
TAILS = [(2, [20]), (0, [21, 22, 23]), (2, [24, 25]), (0, [20]), (1, [30])]


def small(kind, **changes):
    """A randomly initialised model of this architecture, in double precision."""
    settings = {
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "sliding_window": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    } | changes
    if kind == "gpt2":
        settings = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        settings |= {"bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    implementation = settings.pop("attn_implementation", "sdpa")
    config = AutoConfig.for_model(kind, **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def by_itself(model, ids, last):
    return model(input_ids=torch.tensor([ids])).logits[0, -last:].float()


def assert_logits_of_full_sequences(model, *, start, atol=1e-6):
    with torch.inference_mode():
        prefix = compute_prefix(model, COMMON) if start else NO_PREFIX
        assert prefix.length == (len(COMMON) if start else 0)
        for _ in range(2):  # the prefix is reused for a second batch
            answers = answer_logits(model, PROMPTS, SHARED, TAILS, pad=0, prefix=prefix)
            for row, prompt in enumerate(PROMPTS):
                expected = by_itself(model, [*prompt, *SHARED], len(SHARED) + 1)
                torch.testing.assert_close(answers.shared[row], expected, rtol=0, atol=atol)
            for (row, tail), after in zip(TAILS, answers.tails, strict=True):
                expected = by_itself(model, [*PROMPTS[row], *SHARED, *tail], len(tail))
                torch.testing.assert_close(after, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("kind", IN_ONE_PASS)
def test_answers_side_by_side_have_the_logits_of_full_sequences(kind, start):
    model = small(kind)
    assert takes_any_mask(model)
    shapes = []
    model.register_forward_hook(
        lambda _module, _args, kwargs, _out: shapes.append(kwargs["input_ids"].shape),
        with_kwargs=True,
    )
    with torch.inference_mode():
        answer_logits(model, PROMPTS, SHARED, TAILS, pad=0)
    assert shapes == [(3, 6 + 2 + 4)]  # longest prompt, shared tokens, most tail tokens of a row
    assert_logits_of_full_sequences(model, start=start)


def test_the_same_holds_with_an_adapter():
    model = get_peft_model(small("llama"), LoraConfig(target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    assert takes_any_mask(model)
    assert_logits_of_full_sequences(model.double().eval(), start=True)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"attn_implementation": "eager"}),
        ("mistral", {"sliding_window": 4}),
        ("qwen2", {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1}),
        ("gemma2", {"attn_implementation": "eager"}),
        ("olmo2", {}),
    ],
)
def test_a_model_that_cannot_take_the_mask_uses_two_passes(kind, changes):
    model = small(kind, **changes)
    assert not takes_any_mask(model)
    if kind in ("llama", "olmo2"):  # eager attention computes its softmax in fp32
        assert_logits_of_full_sequences(model.float(), start=True, atol=1e-4)


def test_a_recurrent_model_is_refused():
    model = small("mamba", attn_implementation=None)
    with torch.inference_mode():
        assert answer_logits(model, PROMPTS, SHARED, [], pad=0).tails == []
        with pytest.raises(UnsharedError, match=r"use evaluation\.multiple_choice=generate"):
            answer_logits(model, PROMPTS, SHARED, TAILS, pad=0)
