import logging
import random

import pytest
import torch
from peft import LoraConfig, get_peft_model

from toplora_train.evaluation.decoding.decode import generate
from toplora_train.models.tiny import tiny_model, tiny_tokenizer

NEW = 12


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def model():
    return tiny_model().eval()


@pytest.fixture(scope="module")
def prompts(tokenizer):
    draw = random.Random(7)
    texts = ["".join(draw.choices("abc 12.", k=draw.randint(1, 90))) for _ in range(24)]
    return [tokenizer(text)["input_ids"] for text in texts]


@pytest.fixture(scope="module")
def by_hand_of_all(tokenizer, prompts):
    model, ends = tiny_model().eval(), {tokenizer.eos_token_id}
    answered = [by_hand(model, prompt, ends) for prompt in prompts]
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in answered]


def answers(model, tokenizer, prompts, batch_size=32, **settings):
    settings = {"max_new_tokens": NEW} | settings
    found = generate(model, tokenizer, prompts, batch_size=batch_size, **settings)
    return {one.index: one.text for one in found}


@torch.no_grad()
def by_hand(model, prompt, ends, new_tokens=NEW):
    """The oracle: one row, no cache, no padding; append the most probable token until EOS."""
    ids = list(prompt)
    for _ in range(new_tokens):
        best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if best in ends:
            break
        ids.append(best)
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 7, 32])
def test_answers_are_those_of_decoding_by_hand_at_any_batch_size(
    model, tokenizer, prompts, by_hand_of_all, batch_size
):
    found = answers(model, tokenizer, prompts, batch_size)
    assert [found[index] for index in range(len(prompts))] == by_hand_of_all
    assert len(set(by_hand_of_all)) > 10


def test_a_common_prefix_is_computed_once_and_changes_no_answer(model, tokenizer, prompts):
    common = tokenizer("Below is a question. ")["input_ids"]
    longer = [[*common, *prompt] for prompt in prompts]
    widths = []
    model.model.embed_tokens.register_forward_hook(
        lambda _module, inputs, _output: widths.append(inputs[0].shape[1])
    )
    found = answers(model, tokenizer, longer, 7, common=common)
    # First a token shows what state the model keeps; the last one is read with the first answer's.
    assert widths[:3] == [1, len(common), max(map(len, prompts)) - 1]
    by_hand_of_all = [by_hand(model, prompt, {tokenizer.eos_token_id}) for prompt in longer]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in by_hand_of_all]
    assert [found[index] for index in range(len(longer))] == texts


def test_each_row_ends_at_its_own_eos(model, tokenizer, prompts):
    ids = by_hand(model, prompts[0], set())
    others = [by_hand(model, prompt, set()) for prompt in prompts[1:4]]
    end = ids[3]  # make the row's fourth token an EOS of the model
    model.generation_config.eos_token_id = [end]
    found = answers(model, tokenizer, prompts[:4], max_new_tokens=NEW)
    cut = [row[: row.index(end)] if end in row else row for row in [ids, *others]]
    assert [found[i] for i in range(4)] == [tokenizer.decode(row) for row in cut]
    assert len(cut[0]) <= 3


def test_the_longest_prompts_come_first(model, tokenizer, prompts):
    found = generate(model, tokenizer, prompts, max_new_tokens=1, batch_size=8)
    lengths = [len(prompts[one.index]) for one in found]
    assert lengths == sorted(lengths, reverse=True)


def test_by_length_false_keeps_the_order(model, tokenizer, prompts):
    found = generate(model, tokenizer, prompts, max_new_tokens=1, batch_size=8, by_length=False)
    assert [one.index for one in found] == list(range(len(prompts)))


def test_as_many_beams_as_tokens_find_the_most_probable_answer(model, tokenizer, prompts):
    model.generation_config.eos_token_id = None
    tokens = torch.arange(model.config.vocab_size)
    prompt = torch.tensor(prompts[0])
    with torch.inference_mode():
        first = model(prompt[None]).logits[0, -1].log_softmax(-1)
        pairs = torch.cat([prompt.expand(len(tokens), -1), tokens[:, None]], dim=1)
        second = model(pairs).logits[:, -1].log_softmax(-1)
    best = divmod(int((first[:, None] + second).argmax()), len(tokens))
    assert tokenizer.eos_token_id not in best
    found = answers(model, tokenizer, prompts[:1], max_new_tokens=2, num_beams=len(tokens))
    assert found == {0: tokenizer.decode(list(best))}


def test_the_models_own_generation_config_is_ignored(model, tokenizer, prompts, caplog):
    expected = answers(model, tokenizer, prompts[:6])
    own = model.generation_config
    own.do_sample, own.temperature, own.top_p, own.repetition_penalty = True, 0.3, 0.5, 5.0
    with caplog.at_level(logging.WARNING):
        assert answers(model, tokenizer, prompts[:6]) == expected
    assert caplog.records == []
    assert model.generation_config is own
    assert own.repetition_penalty == 5.0


def test_the_modes_of_all_modules_are_restored(model, tokenizer, prompts):
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    answers(model, tokenizer, prompts[:2])
    assert [module.training for module in model.modules()] == before


def test_modes_are_restored_if_generation_is_aborted(model, tokenizer, prompts):
    model.train()
    rows = generate(model, tokenizer, prompts, max_new_tokens=2, batch_size=4)
    next(rows)
    assert not model.training
    rows.close()
    assert model.training


def test_the_callers_code_does_not_run_in_inference_mode(model, tokenizer, prompts):
    for _ in generate(model, tokenizer, prompts[:3], max_new_tokens=2, batch_size=1):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def adapted(model):
    torch.manual_seed(1)
    settings = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    return get_peft_model(model, settings)


# PEFT 0.21 uses a name that transformers 5.23 deprecates.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_generation_uses_the_adapter(model, tokenizer, prompts):
    plain = answers(model, tokenizer, prompts[:8])
    wrapped = adapted(model).eval()
    expected = {
        index: tokenizer.decode(by_hand(wrapped, prompt, {tokenizer.eos_token_id}))
        for index, prompt in enumerate(prompts[:8])
    }
    found = answers(wrapped, tokenizer, prompts[:8], batch_size=3)
    assert found == expected
    assert found != plain


def test_a_model_trained_with_activation_checkpointing_generates_the_same(
    model, tokenizer, prompts
):
    expected = answers(model, tokenizer, prompts[:5])
    renamed = getattr(model, "activation_checkpointing_enable", None)  # transformers 5.23
    (renamed or model.gradient_checkpointing_enable)()
    model.config.use_cache = False
    model.train()
    assert answers(model, tokenizer, prompts[:5]) == expected


def test_autocast_generates_text(model, tokenizer, prompts):
    found = answers(model, tokenizer, prompts[:3], autocast_dtype=torch.bfloat16)
    assert sorted(found) == [0, 1, 2]


def test_a_tokenizer_without_a_pad_token_works(model, prompts, tokenizer):
    expected = answers(model, tokenizer, prompts[:5])
    padless = tiny_tokenizer()
    padless.pad_token = None
    assert answers(model, padless, prompts[:5]) == expected


def test_no_prompts_yield_nothing(model, tokenizer):
    assert answers(model, tokenizer, []) == {}
