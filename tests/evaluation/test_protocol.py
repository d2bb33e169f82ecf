import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.prompts import build_prompt
from toplora_train.evaluation.protocol import CLEAN, PROTOCOLS, find_protocol


def test_the_protocols_decode_as_their_scripts_do():
    decoding = {
        name: (one.num_beams, one.by_length, one.max_new_tokens) for name, one in PROTOCOLS.items()
    }
    assert decoding == {
        "clean": (1, True, None),
        "legacy.toplora": (1, False, 256),
        "legacy.llm_adapters": (4, False, None),
    }


def test_the_clean_protocol_uses_the_training_prompt():
    assert CLEAN.build_prompt is build_prompt
    assert find_protocol("clean") is CLEAN


def test_only_the_clean_protocol_ranks_options():
    assert [name for name, one in PROTOCOLS.items() if one.chooses] == ["clean"]


def test_an_unknown_protocol_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"'legacy'; known: clean, legacy\.toplora"):
        find_protocol("legacy")
