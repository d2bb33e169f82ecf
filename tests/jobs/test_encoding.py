import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.legacy import training_prompt
from toplora_train.data.prompts import build_prompt
from toplora_train.data.rows import Row
from toplora_train.jobs.encoding import encode_for, learned_prompt
from toplora_train.models.tiny import tiny_tokenizer

ROWS = [Row("a", "2 + 2?", "", "4", "4")]


def encode(protocol, **changes):
    how = {"max_length": 512, "overflow": "error"} | changes
    return encode_for(protocol, tiny_tokenizer(), ROWS, **how)


def test_the_clean_protocol_asks_as_it_trains():
    encoded, mismatches = encode("clean")
    assert mismatches == 0
    assert encoded.supervised_tokens == 2  # 4 and EOS


def test_a_legacy_protocol_counts_the_rows_it_asks_otherwise():
    encoded, mismatches = encode("legacy.llm_adapters")
    assert mismatches == 1
    assert encoded.supervised_tokens == encoded.tokens > 200


def test_the_clean_limit_is_not_the_legacy_one():
    with pytest.raises(UserError, match="max_length=8"):
        encode("clean", max_length=8)
    assert encode("legacy.llm_adapters", max_length=8)[0].tokens > 200


def test_the_prompt_that_users_are_told_is_the_one_that_was_learned():
    assert learned_prompt("clean") == build_prompt("{instruction}")
    for protocol in ("legacy.toplora", "legacy.llm_adapters"):
        assert learned_prompt(protocol) == training_prompt("{instruction}")
