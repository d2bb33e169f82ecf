from pathlib import Path

import pytest

from tests.report.run_folders import run_folder
from toplora_train.evaluation.statistics import mcnemar_mid_p
from toplora_train.report.comparison import compare_runs
from toplora_train.report.runs import find_runs

WEAK = [i % 2 == 0 for i in range(60)]
STRONG = [i % 2 == 0 or i % 3 == 0 for i in range(60)]


def two(tmp_path: Path, **changes):
    run_folder(tmp_path / "a", right={"t": WEAK, "u": WEAK}, **changes)
    run_folder(tmp_path / "b", adapter="toplora", right={"t": STRONG, "u": WEAK}, **changes)
    return compare_runs(find_runs([tmp_path / "a", tmp_path / "b"]))


def test_every_method_is_held_against_the_first_and_the_best_leads(tmp_path: Path):
    document = two(tmp_path)
    assert [method["name"] for method in document["methods"]] == ["toplora", "lora"]
    (one,) = document["comparisons"]
    assert (one["first"], one["second"]) == ("lora", "toplora")
    t, u = one["tasks"]["t"], one["tasks"]["u"]
    assert t["value"] == pytest.approx(sum(STRONG) / 60 - 0.5)
    assert t["p"] == mcnemar_mid_p(0, sum(STRONG) - 30)
    assert t["p_adjusted"] == pytest.approx(2 * t["p"])
    assert t["verdict"] == "better"
    assert u["verdict"].startswith("cannot tell; could see")
    assert one["average"]["value"] == pytest.approx(t["value"] / 2)


def test_one_seed_is_said_to_be_one(tmp_path: Path):
    assert any("one seed" in warning for warning in two(tmp_path)["warnings"])


def test_several_seeds_are_averaged_and_their_spread_is_told(tmp_path: Path):
    run_folder(tmp_path / "a", right={"t": WEAK})
    run_folder(tmp_path / "b", right={"t": STRONG}, seed=2)
    document = compare_runs(find_runs([tmp_path]))
    (method,) = document["methods"]
    assert method["seeds"] == [1, 2]
    assert method["average"] == pytest.approx((0.5 + sum(STRONG) / 60) / 2)
    assert method["deviation"] > 0
    assert document["comparisons"] == document["warnings"] == []


def test_what_counts_no_right_answers_is_shown_and_not_compared(tmp_path: Path):
    document = two(tmp_path, metric="matthews")
    (one,) = document["comparisons"]
    assert one["tasks"] == {}
    assert one["not_compared"] == ["t", "u"]
    assert one["average"] is None
