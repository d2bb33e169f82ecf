from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import MistralConfig, MistralForCausalLM

from toplora_train.config.errors import UserError
from toplora_train.evaluation.decoding.prefix import (
    NO_PREFIX,
    common_prefix,
    compute_prefix,
    encode_options,
    extend,
    prefill,
    shares_prompts,
)
from toplora_train.models.tiny import tiny_model, tiny_tokenizer

PROMPTS = [[5, 6, 7, 8, 9], [40, 41], [70, 71, 72]]


@pytest.fixture(scope="module")
def model():
    return tiny_model().eval()


def test_options_are_split_where_they_differ():
    tokenizer = tiny_tokenizer()
    options = encode_options(tokenizer, ["it is b1", "it is b12", "it is c"], end=[3])
    whole = [
        tokenizer(t, add_special_tokens=False)["input_ids"] + [3]
        for t in ("it is b1", "it is b12", "it is c")
    ]
    assert [[*options.shared, *tail] for tail in options.tails] == whole
    assert tokenizer.decode(options.shared) == "it is "
    assert options.lengths == [len(ids) for ids in whole]


def test_options_with_the_same_tokens_are_refused():
    with pytest.raises(UserError, match="'a' and 'a' are the same tokens"):
        encode_options(tiny_tokenizer(), ["a", "b", "a"])


def test_extending_a_batch_gives_the_logits_of_full_sequences(model):
    shared, tails, rows = [11, 12], [[20], [21, 22, 23], [24, 25]], [2, 0, 2]
    with torch.inference_mode():
        begun = prefill(model, PROMPTS, shared, pad=0)
        after = extend(model, begun, rows, tails, pad=0)
        for row, prompt in enumerate(PROMPTS):
            whole = model(torch.tensor([[*prompt, *shared]])).logits[0, len(prompt) - 1 :]
            torch.testing.assert_close(begun.logits[row], whole, rtol=0, atol=2e-5)
        for index, (row, tail) in enumerate(zip(rows, tails, strict=True)):
            ids = [*PROMPTS[row], *shared, *tail]
            whole = model(torch.tensor([ids])).logits[0, -len(tail) :]
            torch.testing.assert_close(after[index, : len(tail)], whole, rtol=0, atol=2e-5)


def test_the_common_prefix_leaves_a_token_of_each_prompt():
    assert common_prefix([[1, 2, 3, 4], [1, 2, 9], [1, 2, 3, 5]]) == (1, 2)
    assert common_prefix([[1, 2], [1, 2, 3]]) == (1,)
    assert common_prefix([[1, 2], [1, 2]]) == (1,)
    assert common_prefix([[1, 2], [3]]) == ()
    assert common_prefix([[1, 2, 3]]) == ()


def test_a_cached_prefix_gives_the_logits_of_full_sequences(model):
    common, shared, tails, rows = [5, 6, 7], [11, 12], [[20], [21, 22, 23]], [2, 0]
    prompts = [[*common, *prompt] for prompt in PROMPTS]
    with torch.inference_mode():
        start = compute_prefix(model, common)
        assert start.length == 3
        for _ in range(2):  # reused for a second batch
            begun = prefill(model, prompts, shared, pad=0, prefix=start)
            after = extend(model, begun, rows, tails, pad=0)
            for row, prompt in enumerate(prompts):
                whole = model(torch.tensor([[*prompt, *shared]])).logits[0, len(prompt) - 1 :]
                torch.testing.assert_close(begun.logits[row], whole, rtol=0, atol=2e-5)
            for index, (row, tail) in enumerate(zip(rows, tails, strict=True)):
                ids = [*prompts[row], *shared, *tail]
                whole = model(torch.tensor([ids])).logits[0, -len(tail) :]
                torch.testing.assert_close(after[index, : len(tail)], whole, rtol=0, atol=2e-5)


def sliding():
    config = MistralConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=4,
    )
    return MistralForCausalLM(config).eval()


def test_a_cache_that_padded_rows_cannot_follow_is_not_used(model):
    with torch.inference_mode():
        assert compute_prefix(sliding(), [5, 6, 7]) is NO_PREFIX
        assert compute_prefix(model, []) is NO_PREFIX


def test_prompts_are_not_shared_with_virtual_tokens_or_recurrent_states(model):
    assert shares_prompts(model)
    assert shares_prompts(get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"])))
    virtual = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    assert not shares_prompts(get_peft_model(tiny_model(), virtual))
    with torch.inference_mode():
        begun = prefill(model, PROMPTS, [11], pad=0)
    assert begun.can_extend
    recurrent = type("Recurrent", (), {"layers": [object()]})()
    assert not replace(begun, cache=recurrent).can_extend
