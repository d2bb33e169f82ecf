from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tests.report.run_folders import run_folder, with_optimizer
from toplora_train.config.errors import UserError
from toplora_train.evaluation.metrics import Measured
from toplora_train.evaluation.statistics import mcnemar_mid_p
from toplora_train.report.comparison import compare_runs, letters, runs_to_inspect
from toplora_train.report.runs import find_runs, find_tuning_runs

WEAK = [i % 2 == 0 for i in range(60)]
STRONG = [i % 2 == 0 or i % 3 == 0 for i in range(60)]


def two(tmp_path: Path, **changes):
    run_folder(tmp_path / "a", right={"t": WEAK, "u": WEAK}, **changes)
    run_folder(tmp_path / "b", adapter="toplora", right={"t": STRONG, "u": WEAK}, **changes)
    return compare_runs(find_runs([tmp_path / "a", tmp_path / "b"]))


def seeded(tmp_path: Path, adapter: str, shares, *, lr=1e-3):
    """A method's runs, one per accuracy."""
    rng = np.random.default_rng(len(adapter))
    for seed, share in enumerate(shares, start=1):
        right = {task: [bool(one) for one in rng.random(300) < share] for task in ("t", "u")}
        run_folder(tmp_path / f"{adapter}{seed}", adapter=adapter, seed=seed, right=right, lr=lr)


def test_methods_are_compared_and_the_best_is_first(tmp_path: Path):
    document = two(tmp_path)
    assert [method["name"] for method in document["methods"]] == ["toplora", "lora"]
    (one,) = document["comparisons"]
    assert (one["first"], one["second"]) == ("lora", "toplora")
    t, u = one["tasks"]["t"], one["tasks"]["u"]
    assert t["value"] == pytest.approx(sum(STRONG) / 60 - 0.5)
    assert t["p"] == mcnemar_mid_p(0, sum(STRONG) - 30)
    assert t["p_adjusted"] == pytest.approx(2 * t["p"])
    assert u["verdict"].startswith("cannot tell these adapters apart; this comparison could see")
    assert one["average"]["value"] == pytest.approx(t["value"] / 2)


def test_one_seed_says_nothing_about_methods(tmp_path: Path):
    document = two(tmp_path)
    difference = document["comparisons"][0]["tasks"]["t"]
    assert (
        difference["verdict"] == "this adapter answers better than that one; another seed may not"
    )
    assert difference["seed_variance"] is difference["seeds_needed"] is None
    assert any("not to the methods" in warning for warning in document["warnings"])


def test_several_seeds_are_averaged_with_their_standard_deviation(tmp_path: Path):
    run_folder(tmp_path / "a", right={"t": WEAK})
    run_folder(tmp_path / "b", right={"t": STRONG}, seed=2)
    document = compare_runs(find_runs([tmp_path]))
    (method,) = document["methods"]
    assert method["seeds"] == [1, 2]
    assert method["average"] == pytest.approx((0.5 + sum(STRONG) / 60) / 2)
    assert method["deviation"] > 0
    low, high = method["average_ci95"]
    assert low < method["average"] < high
    assert document["comparisons"] == document["warnings"] == []


def test_several_seeds_give_a_verdict_on_methods(tmp_path: Path):
    seeded(tmp_path, "lora", [0.5, 0.51, 0.49])
    seeded(tmp_path, "toplora", [0.8, 0.79, 0.81])
    (one,) = compare_runs(find_runs([tmp_path]))["comparisons"]
    assert one["average"]["verdict"] == "better"
    assert one["average"]["seeds_needed"] is None or one["average"]["seeds_needed"] > 3
    larger = compare_runs(find_runs([tmp_path]), gain=0.2)["comparisons"][0]["average"]
    assert larger["seeds_needed"] <= 3


def test_all_pairs_are_compared_or_each_to_the_baseline(tmp_path: Path):
    seeded(tmp_path, "lora", [0.5, 0.51])
    seeded(tmp_path, "toplora", [0.8, 0.79])
    seeded(tmp_path, "dora", [0.5, 0.49])
    runs = find_runs([tmp_path])
    pairs = compare_runs(runs)["comparisons"]
    assert len(pairs) == 3
    chosen = compare_runs(runs, baseline="toplora")
    assert chosen["baseline"] == "toplora"
    assert [one["first"] for one in chosen["comparisons"]] == ["toplora", "toplora"]
    assert {one["second"] for one in chosen["comparisons"]} == {"lora", "dora"}
    smallest = min(one["average"]["p"] for one in pairs)
    adjusted = min(one["average"]["p_adjusted"] for one in pairs)
    assert adjusted == pytest.approx(3 * smallest)


def test_a_baseline_needs_no_learning_rate_where_an_optimizer_has_another(tmp_path: Path):
    with_optimizer(run_folder(tmp_path / "a", lr=1e-3), "adamw")
    with_optimizer(run_folder(tmp_path / "b", lr=1e-2), "muon")
    (found,) = compare_runs(find_runs([tmp_path]), baseline="lora")["comparisons"]
    assert found["first"] == "lora optimizer.lr=0.001"
    assert found["second"] == "lora optimizer=muon optimizer.lr=0.01"


def test_an_unknown_or_ambiguous_baseline_is_an_error(tmp_path: Path):
    seeded(tmp_path, "lora", [0.5])
    run_folder(tmp_path / "x", right={"t": WEAK, "u": WEAK}, lr=5e-2)
    runs = find_runs([tmp_path])
    with pytest.raises(
        UserError, match="baseline=dora matches no method; the methods are 'lora opt"
    ):
        compare_runs(runs, baseline="dora")
    with pytest.raises(UserError, match="baseline=lora matches several methods"):
        compare_runs(runs, baseline="lora")


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_metrics_other_than_accuracy_are_compared_too(tmp_path: Path, metric):
    (one,) = two(tmp_path, metric=metric)["comparisons"]
    assert one["tasks"]["t"]["value"] > 0
    assert one["tasks"]["t"]["p"] < 0.05
    assert one["tasks"]["u"]["value"] == 0
    assert one["average"]["value"] == pytest.approx(one["tasks"]["t"]["value"] / 2)


def test_other_metrics_are_compared_but_not_averaged(tmp_path: Path):
    (one,) = two(tmp_path, more={"f1": Measured(0.5, (0.4, 0.6))})["comparisons"]
    assert list(one["tasks"]) == ["t", "u", "t (f1)", "u (f1)"]
    assert one["average"]["value"] == pytest.approx(one["tasks"]["t"]["value"] / 2)


@pytest.mark.parametrize(
    ("apart", "expected"),
    [
        ([], {"x": "a", "y": "a", "z": "a"}),
        ([("x", "z")], {"x": "a", "y": "ab", "z": "b"}),
        ([("x", "y"), ("x", "z")], {"x": "a", "y": "b", "z": "b"}),
        ([("x", "y"), ("x", "z"), ("z", "y")], {"x": "a", "y": "b", "z": "c"}),
    ],
)
def test_methods_share_a_letter_exactly_if_they_cannot_be_told_apart(apart, expected):
    assert letters(["x", "y", "z"], apart) == expected


def test_letters_hold_for_any_set_of_pairs():
    names = [str(i) for i in range(7)]
    pairs = list(combinations(names, 2))
    for seed in range(20):
        chosen = np.random.default_rng(seed).random(len(pairs)) < 0.4
        apart = [pair for pair, yes in zip(pairs, chosen, strict=True) if yes]
        given = letters(names, apart)
        for first, second in pairs:
            assert bool(set(given[first]) & set(given[second])) == ((first, second) not in apart)


def test_learning_rates_are_those_of_the_tuning_runs(tmp_path: Path):
    for adapter, chosen in (("lora", 1e-3), ("toplora", 1e-2)):
        seeded(tmp_path / "S", adapter, [0.5, 0.6], lr=chosen)
        for lr in (1e-3, 1e-2):
            folder = tmp_path / "S" / "tuning" / f"{adapter}-{lr}"
            run_folder(folder, adapter=adapter, lr=lr, held_out=abs(lr - chosen), right={})
    failed = tmp_path / "S" / "tuning" / "failed"
    failed.mkdir()
    (failed / "report.json").write_text('{"schema_version": 1, "status": "failed"}')
    runs, tuning = find_runs([tmp_path / "S"]), find_tuning_runs([tmp_path / "S"])
    assert (len(runs), len(tuning)) == (4, 4)
    document = compare_runs(runs, tuning=tuning)
    best = {name: one["best"] for name, one in document["learning_rates"]["curves"].items()}
    assert best == {"lora": 1e-3, "toplora": 1e-2}
    warnings = "\n".join(document["warnings"])
    assert "extend the grid by 1e-4 (study.rates)" in warnings
    assert "different learning rates" not in warnings
    assert "different learning rates" in "\n".join(compare_runs(runs)["warnings"])


def test_the_adapters_compared_are_the_first_of_each_method_or_two_of_a_single_one():
    methods = [
        {"name": "lora", "runs": ["a", "b"], "seeds": [1, 2]},
        {"name": "dora", "runs": ["c/evaluations/again"], "seeds": [1]},
    ]
    assert runs_to_inspect({"methods": methods}) == {"lora": Path("a"), "dora": Path("c")}
    assert runs_to_inspect({"methods": methods[:1]}) == {
        "lora seed=1": Path("a"),
        "lora seed=2": Path("b"),
    }
    with pytest.raises(UserError, match="there is one"):
        runs_to_inspect({"methods": methods[1:]})


def test_a_method_that_no_study_tuned_was_tried_at_the_rate_of_its_runs(tmp_path: Path):
    for lr in (1e-4, 1e-3, 1e-2):
        run_folder(tmp_path / "tuning" / f"lora-{lr}", lr=lr, held_out=lr)
    for adapter, lr in (("lora", 1e-4), ("toplora", 1e-3)):
        for seed in (11, 12):
            run_folder(tmp_path / f"{adapter}-{seed}", adapter=adapter, lr=lr, seed=seed)
    document = compare_runs(find_runs([tmp_path]), tuning=find_tuning_runs([tmp_path]))
    (warning,) = [one for one in document["warnings"] if "different learning rates" in one]
    assert "(lora 0.0001, 0.001, 0.01, toplora 0.001)" in warning
    assert "optimizer.lr=1e-4,1e-2" in warning
    assert list(document["learning_rates"]["curves"]) == ["lora"]
