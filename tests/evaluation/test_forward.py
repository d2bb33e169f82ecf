import pytest
import torch
from peft import LoraConfig, get_peft_model

from toplora_train.evaluation.forward import (
    autocast,
    end_token_ids,
    evaluating,
    forward_takes,
    left_padded,
    longest_first,
    pad_token_id,
)
from toplora_train.models.tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def model():
    return tiny_model()


def test_eos_of_the_model_and_of_the_tokenizer_end_an_answer(model):
    tokenizer = tiny_tokenizer()
    model.generation_config.eos_token_id = [7, 9]
    assert end_token_ids(model, tokenizer) == {7, 9, tokenizer.eos_token_id}
    model.generation_config.eos_token_id = 5
    assert end_token_ids(model, tokenizer) == {5, tokenizer.eos_token_id}


def test_without_a_pad_token_eos_is_the_padding():
    tokenizer = tiny_tokenizer()
    own = tokenizer.pad_token_id
    assert pad_token_id(tokenizer, {own + 1}) == own
    tokenizer.pad_token = None
    assert pad_token_id(tokenizer, {9, 7}) == 7


def test_prompts_are_padded_on_the_left():
    batch = left_padded([[5, 6], [7, 8, 9]], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[0, 5, 6], [7, 8, 9]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]


def test_batches_are_by_length_longest_first():
    assert longest_first([[0], [0] * 3, [0] * 2], 2) == [[1, 2], [0]]


def test_an_adapter_does_not_hide_the_arguments_of_forward(model):
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    for one in (model, adapted):
        assert forward_takes(one, "logits_to_keep")
        assert not forward_takes(one, "labels_to_keep")


def test_the_modes_of_all_modules_are_restored(model):
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("under", [None, torch.bfloat16])
def test_logits_are_fp32_whatever_the_dtype_of_the_rest(model, dtype, under):
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"])).to(dtype)
    hidden = []
    model.model.norm.register_forward_hook(lambda _module, _args, output: hidden.append(output))
    ids = torch.arange(12).view(2, 6)
    with torch.inference_mode(), autocast(torch.device("cpu"), under):
        rounded = adapted(input_ids=ids, logits_to_keep=2).logits
        with evaluating(adapted), evaluating(adapted):
            exact = adapted(input_ids=ids, logits_to_keep=2).logits
        again = adapted(input_ids=ids, logits_to_keep=2).logits
    assert exact.dtype == torch.float32
    expected = hidden[1][:, -2:].double() @ model.lm_head.weight.double().T
    torch.testing.assert_close(exact.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(again, rounded, rtol=0, atol=0)
    plain = dtype == torch.float32 and under is None
    assert rounded.dtype == (torch.float32 if plain else torch.bfloat16)
    assert "forward" not in vars(model.lm_head)


def test_a_head_with_an_adapter_is_left_unchanged(model):
    adapted = get_peft_model(model, LoraConfig(target_modules=["lm_head"]))
    ids = torch.arange(12).view(2, 6)
    with torch.inference_mode():
        before = adapted(input_ids=ids).logits
        with evaluating(adapted):
            torch.testing.assert_close(adapted(input_ids=ids).logits, before, rtol=0, atol=0)


def test_the_head_gets_contiguous_hidden_states(model, monkeypatch):
    """torch multiplies a 3-D view row by row, copying the head for each."""
    pieces, multiply = [], torch.nn.functional.linear

    def training_stats(left, right, *bias):
        if right is model.lm_head.weight:
            pieces.append(left.is_contiguous())
        return multiply(left, right, *bias)

    monkeypatch.setattr(torch.nn.functional, "linear", training_stats)
    ids = torch.arange(12).view(2, 6)
    with torch.inference_mode():
        model(input_ids=ids, logits_to_keep=2)
        with evaluating(model):
            model(input_ids=ids, logits_to_keep=2)
    assert pieces == [False, True]
