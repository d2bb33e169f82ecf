"""The shared settings: which rank and which scaling a module gets."""

import math

import pytest

from toplora_train.adapters.configs import LowRankConfig
from toplora_train.adapters.toplora import TopLoraConfig

NAME = "model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("pattern", "rank"),
    [
        ({}, 8),
        ({"q_proj": 2}, 2),
        ({r"layers\.1\..*": 3}, 3),
        ({"k_proj": 2}, 8),
        ({"proj": 2}, 8),  # an end of a name begins at a dot
        ({"self_attn.q_proj": 4, "q_proj": 2}, 4),  # the first that matches
    ],
)
def test_a_rank_may_be_set_by_the_end_of_a_name_or_an_expression(pattern: dict, rank: int):
    assert TopLoraConfig(rank_pattern=pattern).rank_for(NAME) == rank


def test_scaling_is_alpha_over_r_or_over_its_root_with_the_modules_own_r_and_alpha():
    patterns = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 6}}
    assert TopLoraConfig(r=8, alpha=4).scaling_for(NAME) == 0.5
    assert TopLoraConfig(**patterns).scaling_for(NAME) == 3
    assert TopLoraConfig(**patterns, use_rslora=True).scaling_for(NAME) == 6 / math.sqrt(2)


def test_the_settings_are_the_fields_that_are_not_pefts_bookkeeping():
    own = set(TopLoraConfig.setting_names()) - set(LowRankConfig.setting_names())
    assert own == {"gate"}
    assert "peft_type" not in LowRankConfig.setting_names()
