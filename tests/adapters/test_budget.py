"""Choosing the rank from a parameter budget."""

import math

import pytest
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification

from tests.adapters.test_contract import ADAPTERS, defaults
from toplora_train.adapters.attach import attach_adapter, fit_to_budget
from toplora_train.adapters.budget import nearest_mode_ranks, nearest_rank, parameters_of
from toplora_train.adapters.describe import count_adapter_parameters
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model

SIZES = [(96, 96, 3, 12)]
OTHER_FORMS = [("tenslora", "9k"), ("toplora", "2.5%")]  # a form is parsed before any adapter


@pytest.mark.parametrize(
    ("budget", "parameters"),
    [
        (1234, 1234),
        ("147_456", 147456),
        ("350k", 350_000),
        ("4.7M", 4_700_000),
        ("0.1%", 2_000),
        ("lora_r8", 8 * 100),
    ],
)
def test_a_budget_is_a_number_a_fraction_or_the_size_of_a_lora(budget: object, parameters: int):
    found = parameters_of(
        budget, {"target_modules": ["q"]}, lambda lora: lora["r"] * 100, 2 * 10**6
    )
    assert found == parameters


def test_the_size_of_a_lora_is_counted_on_the_same_modules():
    def count(lora):
        assert lora == {
            "name": "lora",
            "r": 4,
            "target_modules": ["up"],
            "exclude_modules": None,
            "layers_to_transform": [1],
        }
        return 7

    own = {"target_modules": ["up"], "layers_to_transform": [1], "alpha": 3}
    assert parameters_of("lora_r4", own, count, 10**6) == 7


@pytest.mark.parametrize("budget", ["much", "r8", "-4", "4.7MB", "", [4]])
def test_an_invalid_budget_is_refused_with_the_valid_forms(budget: object):
    with pytest.raises((TypeError, ValueError), match=r"^budget must be a number such as 4\.7M"):
        parameters_of(budget, {}, lambda _: 1, 100)


@pytest.mark.parametrize("cost", [lambda r: 10 + 7 * r, lambda r: r**3 + r])
@pytest.mark.parametrize("wanted", [17, 30, 68, 500, 10_001])
def test_nearest_rank_agrees_with_an_exhaustive_search(cost, wanted: int):
    best = min(range(1, 2000), key=lambda r: abs(cost(r) - wanted))
    assert nearest_rank(cost, wanted) == best


def test_a_budget_below_the_smallest_adapter_is_refused():
    with pytest.raises(ValueError, match="below the smallest adapter, of 17"):
        nearest_rank(lambda r: 10 + 7 * r, 16)


def test_a_budget_above_the_largest_adapter_is_refused():
    def cost(r: int) -> float:
        return 10 * r if r <= 5 else math.inf

    assert nearest_rank(cost, 50) == 5
    with pytest.raises(ValueError, match=r"above the largest adapter, of 50 \(rank 5\)"):
        nearest_rank(cost, 70)


@pytest.mark.parametrize("wanted", [300, 2_000, 9_000, 60_000])
def test_mode_ranks_do_not_exceed_their_modes_and_meet_the_budget(wanted: int):
    ranks = nearest_mode_ranks(SIZES, wanted)
    assert all(1 <= rank <= size for rank, size in zip(ranks, SIZES[0], strict=True))
    cost = sum(r * size for r, size in zip(ranks, SIZES[0], strict=True)) + math.prod(ranks)
    one_more = SIZES[0][0] + math.prod(ranks[1:])
    assert abs(cost - wanted) <= one_more / 2


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        pytest.param(
            name,
            budget,
            marks=[] if budget == "lora_r4" or (name, budget) in OTHER_FORMS else pytest.mark.slow,
        )
        for name in ADAPTERS
        for budget in ("lora_r4", "9k", "2.5%")
    ],
)
def test_the_adapter_that_is_attached_is_the_one_that_was_fitted(name: str, budget: str):
    settings = defaults(name, budget=budget, **FOR_A_TINY_MODEL.get(name, {}))
    before = torch.get_rng_state()
    fit = fit_to_budget(tiny_model(), settings)
    model = attach_adapter(tiny_model(), settings, seed=1)
    assert count_adapter_parameters(model) == fit.parameters
    assert torch.equal(torch.get_rng_state(), before)
    neighbours = [
        count_adapter_parameters(
            attach_adapter(tiny_model(), {**fit.settings, "r": fit.settings["r"] + step}, seed=1)
        )
        for step in (-1, 1)
        if name != "tenslora" and fit.settings["r"] + step > 0
    ]
    assert all(abs(fit.parameters - fit.wanted) <= abs(n - fit.wanted) for n in neighbours)


FOR_A_TINY_MODEL = {"genlora": {"num_groups": 2, "num_kernels": 4}}


def test_lora_meets_the_budget_of_lora():
    fit = fit_to_budget(tiny_model(), defaults("lora", budget="lora_r6"))
    assert (fit.settings["r"], fit.parameters) == (6, fit.wanted)
    assert str(fit) == f"r = 6: {fit.wanted:,} parameters for a budget of {fit.wanted:,} (+0.00%)"


def test_modules_to_save_are_not_counted():
    model = tiny_model()
    small = fit_to_budget(model, defaults("lora", budget="lora_r2", modules_to_save=["lm_head"]))
    assert small.settings["r"] == 2


@pytest.mark.parametrize(
    ("name", "other"), [("lora", {"rank_pattern": {"q_proj": 2}}), ("tenslora", {"ranks": [1] * 4})]
)
def test_a_budget_and_ranks_given_one_by_one_exclude_each_other(name: str, other: dict):
    with pytest.raises(UserError, match=r"^adapter\.budget and \w+ exclude each other"):
        attach_adapter(tiny_model(), defaults(name, budget="9k", **other), seed=1)


def test_a_budget_that_is_too_small_names_the_smallest_adapter():
    with pytest.raises(UserError, match=r"^adapter\.budget of 10 parameters is below the smallest"):
        attach_adapter(tiny_model(), defaults("genlora", budget=10), seed=1)


def test_a_budget_of_the_largest_rank_is_met_and_one_above_is_refused():
    own = defaults("sbora") | {"target_modules": ["q_proj", "k_proj", "v_proj"]}
    largest = 2 * 64 * (64 + 32 + 32)  # of two layers
    for budget in (largest, largest + 100):
        found = fit_to_budget(tiny_model(), own | {"budget": budget})
        assert (found.settings["r"], found.parameters) == (64, largest)
    with pytest.raises(
        UserError, match=r"^adapter\.budget of 60,000 .*largest .*\(rank 64\); allow"
    ):
        fit_to_budget(tiny_model(), own | {"budget": "60k"})


def test_another_invalid_setting_is_not_taken_for_the_rank():
    with pytest.raises(UserError, match=r"^adapter\.side must be one of input, output"):
        fit_to_budget(tiny_model(), defaults("sbora") | {"budget": "9k", "side": "in"})


def test_a_budget_works_for_an_encoder_without_weights():
    with torch.device("meta"):
        config = RobertaConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
        model = RobertaForSequenceClassification(config)
    assert fit_to_budget(model, defaults("toplora", budget="lora_r8")).settings["r"] == 5
