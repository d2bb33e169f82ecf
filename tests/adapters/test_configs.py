"""The shared settings: a module's rank and scaling."""

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
        ({"proj": 2}, 8),  # a suffix of a name starts at a dot
        ({"self_attn.q_proj": 4, "q_proj": 2}, 4),  # the first match
    ],
)
def test_a_rank_may_be_set_by_a_name_suffix_or_a_regular_expression(pattern: dict, rank: int):
    assert TopLoraConfig(rank_pattern=pattern).rank_for(NAME) == rank


def test_scaling_is_alpha_over_r_or_over_its_root_with_the_modules_own_r_and_alpha():
    patterns = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 6}}
    assert TopLoraConfig(r=8, alpha=4).scaling_for(NAME) == 0.5
    assert TopLoraConfig(**patterns).scaling_for(NAME) == 3
    assert TopLoraConfig(**patterns, use_rslora=True).scaling_for(NAME) == 6 / math.sqrt(2)


def test_setting_names_exclude_pefts_internal_fields():
    own = set(TopLoraConfig.setting_names()) - set(LowRankConfig.setting_names())
    assert own == {"gate"}
    assert "peft_type" not in LowRankConfig.setting_names()
