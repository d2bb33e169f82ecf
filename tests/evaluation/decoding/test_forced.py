import pytest
import torch
from peft import PromptTuningConfig, get_peft_model

from tests.evaluation.sets import evaluated_by
from toplora_train.data.encode import encode_example
from toplora_train.data.rows import Row
from toplora_train.evaluation.decoding.decode import generate
from toplora_train.evaluation.decoding.forced import prove_answers
from toplora_train.evaluation.methods.generate import METHOD
from toplora_train.evaluation.protocol import CLEAN
from toplora_train.models.tiny import tiny_model, tiny_tokenizer

RESPONSES = ["answer is b", "answer is c", "answer is d", "answer is de"]
NEW = 16


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [tokenizer(f"{'x' * (i % 5)}{i}?")["input_ids"] for i in range(16)]


@pytest.fixture(scope="module")
def tuned(tokenizer):
    """Tuned to answer most prompts with the sentence, every fourth differently."""
    torch.manual_seed(0)
    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    examples = [
        encode_example(
            tokenizer,
            f"{'x' * (i % 5)}{i}?",
            RESPONSES[i // 2 % 4] if i % 4 else "answer of no kind",
        )
        for i in range(16)
    ]
    width = max(len(e.input_ids) for e in examples)
    ids = torch.tensor([[*e.input_ids, *[0] * (width - len(e.input_ids))] for e in examples])
    labels = ids.clone()
    for index, example in enumerate(examples):
        labels[index, : example.prompt_length] = -100
        labels[index, len(example.input_ids) :] = -100
    for _ in range(120):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    return model.eval()


@pytest.fixture(scope="module")
def decoded(tuned, tokenizer, prompts):
    found = generate(tuned, tokenizer, prompts, max_new_tokens=NEW, batch_size=1)
    return {one.index: one.text for one in found}


def proven(model, tokenizer, prompts, batch_size=4, **changes):
    how = {"max_new_tokens": NEW} | changes
    return dict(prove_answers(model, tokenizer, prompts, RESPONSES, batch_size=batch_size, **how))


@pytest.mark.parametrize("batch_size", [2, 5, 32])
def test_verified_answers_are_those_of_decoding(tuned, tokenizer, prompts, decoded, batch_size):
    expected = {i: text for i, text in decoded.items() if text in RESPONSES}
    assert 8 <= len(expected) < 16
    assert set(expected.values()) == set(RESPONSES)
    found = proven(tuned, tokenizer, prompts, batch_size=batch_size)
    assert found == expected


def test_two_passes_verify_the_same_answers_as_one(tuned, tokenizer, prompts):
    whole = proven(tuned, tokenizer, prompts)
    tuned.config._attn_implementation = "eager"
    try:
        assert proven(tuned, tokenizer, prompts) == whole != {}
    finally:
        tuned.config._attn_implementation = "sdpa"


def test_a_cached_prefix_changes_nothing(tuned, tokenizer, prompts):
    common = tokenizer("xx")["input_ids"]
    alike = [prompt for prompt in prompts if prompt[:2] == common]
    assert len(alike) > 5
    assert proven(tuned, tokenizer, alike, common=common) == proven(tuned, tokenizer, alike) != {}


def test_an_answer_beyond_max_new_tokens_is_not_verified(tuned, tokenizer, prompts):
    longest = max(map(len, RESPONSES))  # one byte is one token
    assert proven(tuned, tokenizer, prompts, max_new_tokens=longest + 1)
    assert not proven(tuned, tokenizer, prompts, max_new_tokens=longest)


def test_every_eos_of_the_model_counts(tuned, tokenizer, prompts):
    before = proven(tuned, tokenizer, prompts)
    own = tuned.generation_config.eos_token_id
    tuned.generation_config.eos_token_id = [tokenizer.eos_token_id, 7]
    assert proven(tuned, tokenizer, prompts) == before
    tuned.generation_config.eos_token_id = own


def test_verification_stops_after_a_batch_without_matches(tokenizer, prompts):
    model, calls = tiny_model(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    assert proven(model, tokenizer, prompts) == {}
    assert calls == [1]


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_generate_gives_the_same_predictions_with_and_without_verification(
    tuned, tokenizer, batch_size
):
    rows = [Row(str(i), f"{'x' * (i % 5)}{i}?", "", "", "bcd"[i % 3]) for i in range(16)]
    task = {"extraction": "choice", "choices": ["b", "c", "d", "de"], "max_new_tokens": NEW}
    protocol = type(CLEAN)(
        "clean", lambda instruction, _: instruction, CLEAN.extract, CLEAN.is_correct, chooses=True
    )
    how = task | {"protocol": protocol}
    alone = evaluated_by(METHOD, tuned, tokenizer, rows, batch_size=1, **how)[1]
    plain = evaluated_by(METHOD, tuned, tokenizer, rows, batch_size=batch_size, **how)[1]
    calls = []
    handle = tuned.register_forward_hook(lambda *_: calls.append(1))
    fast = evaluated_by(
        METHOD,
        tuned,
        tokenizer,
        rows,
        batch_size=batch_size,
        response="answer is {answer}",
        **how,
    )[1]
    handle.remove()
    assert fast == plain == alone
    assert sum(p.output.startswith("answer is") for p in fast) >= 8


def test_nothing_is_verified_if_prompts_cannot_be_shared(tokenizer, prompts):
    virtual = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    assert proven(get_peft_model(tiny_model(), virtual), tokenizer, prompts) == {}
