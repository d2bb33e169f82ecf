"""Rows that leave a batch as they end, and prompts that join it."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from tests.evaluation.decoding.test_decode import by_hand
from tests.evaluation.decoding.test_prefix import sliding
from toplora_train.evaluation.decoding.greedy import decode_greedily, rows_can_leave
from toplora_train.models.tiny import tiny_config, tiny_model

LIMIT = 24
ENDS = set(range(1, 258, 9))  # so many tokens end a row that rows end at very different lengths


@pytest.fixture(scope="module")
def prompts():
    draw = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 30, (21,), generator=draw).tolist()
    return [torch.randint(3, 258, (n,), generator=draw).tolist() for n in [*lengths, 1]]


@pytest.fixture(scope="module")
def expected(prompts):
    """Each prompt alone, by recomputing everything for each token."""
    return [by_hand(tiny_model().eval(), prompt, ENDS, LIMIT) for prompt in prompts]


def decode(model, prompts, batch_size, common=()):
    settings = {"max_new_tokens": LIMIT, "ends": ENDS, "pad": 0}
    found = decode_greedily(model, prompts, common=common, batch_size=batch_size, **settings)
    return list(found)


def until_its_end(tokens):
    return [token for token in tokens if token not in ENDS]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 40])
def test_every_row_has_the_tokens_that_it_has_alone(prompts, expected, batch_size):
    found = dict(decode(tiny_model().eval(), prompts, batch_size))
    assert sorted(found) == list(range(len(prompts)))
    for index, alone in enumerate(expected):
        tokens = found[index]
        assert until_its_end(tokens)[: len(alone)] == alone
        if len(alone) < LIMIT:
            assert tokens[len(alone)] in ENDS
        else:
            assert tokens == alone
    lengths = sorted(map(len, expected))
    assert lengths[0] < 5 and lengths[-1] == LIMIT


def test_a_common_prefix_changes_no_token(prompts):
    common = [7, 30, 41, 60]
    longer = [[*common, *prompt] for prompt in prompts]
    found = dict(decode(tiny_model().eval(), longer, 8, common))
    alone = [by_hand(tiny_model().eval(), prompt, ENDS, LIMIT) for prompt in longer]
    assert [until_its_end(found[index])[: len(row)] for index, row in enumerate(alone)] == alone


def test_the_places_of_ended_rows_are_taken(prompts):
    model, computed = tiny_model().eval(), []
    model.model.embed_tokens.register_forward_hook(
        lambda _module, inputs, _output: computed.append(tuple(inputs[0].shape))
    )
    found = dict(decode(model, prompts, 8))
    steps = [rows for rows, width in computed if width == 1]
    needed = sum(map(len, found.values()))
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    batches = [order[at : at + 8] for at in range(0, len(order), 8)]
    whole_batches = sum(len(b) * max(len(found[index]) for index in b) for b in batches)
    assert max(steps) == 8
    assert needed <= sum(steps) < 0.75 * whole_batches


def test_no_answer_is_longer_than_the_limit(prompts):
    model = tiny_model().eval()
    settings = {"common": (), "ends": set(), "pad": 0, "batch_size": 5}
    found = dict(decode_greedily(model, prompts, max_new_tokens=7, **settings))
    assert [len(found[index]) for index in range(len(prompts))] == [7] * len(prompts)


def test_rows_stay_in_a_model_whose_cache_is_a_window():
    with torch.inference_mode():
        assert not rows_can_leave(sliding(), 0)
        assert rows_can_leave(tiny_model().eval(), 0)


class Forgetful(torch.nn.Module):
    """A model that keeps no cache unless it is its own."""

    def __init__(self, inner) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, input_ids=None, position_ids=None, past_key_values=None, **more):
        del past_key_values
        output = self.inner(input_ids=input_ids, position_ids=position_ids, **more)
        output.past_key_values = None
        return output


def test_rows_stay_in_a_model_that_returns_no_cache_or_whose_keys_depend_on_the_width():
    with torch.inference_mode():
        assert not rows_can_leave(Forgetful(tiny_model().eval()), 0)
        dynamic = tiny_config()
        dynamic.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
        assert not rows_can_leave(LlamaForCausalLM(dynamic).eval(), 0)


def test_no_row_uses_more_positions_than_its_prompt_and_the_limit():
    """Positions end there: the embedding of a further one would be out of its range."""
    limit, longest = 24, 20
    config = GPT2Config(
        n_positions=limit + longest, vocab_size=258, n_embd=32, n_layer=2, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(1)
    model = GPT2LMHeadModel(config).eval()
    draw = torch.Generator().manual_seed(5)
    lengths = [longest] * 9 + [10] * 7
    prompts = [torch.randint(3, 258, (n,), generator=draw).tolist() for n in lengths]
    ends = set(range(1, 258, 40))
    settings = {"common": (), "ends": ends, "pad": 0, "max_new_tokens": limit, "batch_size": 8}
    found = dict(decode_greedily(model, prompts, **settings))
    for index, prompt in enumerate(prompts):
        alone = by_hand(model, prompt, ends, limit)
        tokens = [token for token in found[index] if token not in ends]
        assert tokens[: len(alone)] == alone
