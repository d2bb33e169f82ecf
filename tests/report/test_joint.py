"""Heads of several tasks, each from a run of its own, on one leaderboard."""

import numpy as np
import pytest
import yaml

from tests.report.run_folders import run_folder
from toplora_train.config.errors import UserError
from toplora_train.report.comparison import compare_runs
from toplora_train.report.runs import find_runs

SHARES = {"lora": (0.5, 0.52, 0.48), "toplora": (0.8, 0.79, 0.81)}


def head_run(folder, adapter, task, seed, share, **changes):
    rng = np.random.default_rng([seed, len(task), len(adapter)])
    right = {task: [bool(one) for one in rng.random(200) < share]}
    command = f"toplora-train recipe=x 'task=[{task}]' adapter={adapter} seed={seed}"
    settings = {"kind": "classify", "protocol_hash": task * 16, "command": command, **changes}
    name = f"{adapter}-{task}-{seed}-{settings.get('lr', '')}"
    return run_folder(folder / name, adapter=adapter, seed=seed, right=right, **settings)


@pytest.fixture
def runs(tmp_path):
    for adapter, shares in SHARES.items():
        for seed, share in enumerate(shares, start=1):
            for task in ("t", "u"):
                head_run(tmp_path, adapter, task, seed, share)
    return tmp_path


def test_the_score_of_a_seed_is_the_mean_of_its_runs(runs):
    document = compare_runs(find_runs([runs]))
    assert list(document["tasks"]) == ["t", "u"]
    best = document["methods"][0]
    assert (best["name"], best["seeds"], len(best["runs"])) == ("toplora", [1, 2, 3], 6)
    assert best["average"] == pytest.approx((best["tasks"]["t"] + best["tasks"]["u"]) / 2)
    single = [one for one in find_runs([runs]) if one.head_of == ("t",)]
    alone = {one["name"]: one for one in compare_runs(single)["methods"]}
    assert best["tasks"]["t"] == alone["toplora"]["tasks"]["t"]
    assert best["seconds"] == pytest.approx(2 * alone["toplora"]["seconds"])
    assert document["comparisons"][0]["average"]["verdict"] == "better"
    assert document["warnings"] == []


def test_a_seed_that_a_task_lacks_is_left_out_and_named(runs):
    head_run(runs, "lora", "t", 4, 0.5)
    document = compare_runs(find_runs([runs]))
    assert {one["name"]: one["seeds"] for one in document["methods"]}["lora"] == [1, 2, 3]
    assert "lora seed=4 has no completed run on u." in document["warnings"][0]


def test_an_average_of_adapters_that_are_not_alike_is_named(runs):
    for path in runs.glob("*-u-*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        config["adapter"]["r"] = 2
        path.write_text(yaml.safe_dump(config))
    (warning,) = compare_runs(find_runs([runs]))["warnings"]
    of_each = [f"{adapter} has adapter.r 8 on t, 2 on u" for adapter in SHARES]
    assert warning == f"Averages of adapters that are not alike: {'; '.join(of_each)}."


def test_methods_with_a_rate_tuned_for_each_task_are_one(tmp_path):
    for seed in (1, 2):
        for adapter, task, lr in (
            ("lora", "t", 1e-3),
            ("lora", "u", 1e-2),
            ("toplora", "t", 1e-2),
            ("toplora", "u", 1e-4),
        ):
            head_run(tmp_path, adapter, task, seed, 0.6, lr=lr)
    document = compare_runs(find_runs([tmp_path]))
    assert {one["name"] for one in document["methods"]} == {"lora", "toplora"}


def with_rank(folder, r):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["adapter"]["r"] = r
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_method_has_one_name_whatever_else_differs_on_each_task(tmp_path):
    """On t the ranks differ, on u the learning rates too."""
    rates = {(8, "t"): 1e-3, (16, "t"): 1e-3, (8, "u"): 1e-3, (16, "u"): 3e-3}
    for (r, task), lr in rates.items():
        for seed in (1, 2):
            with_rank(head_run(tmp_path / str(r), "lora", task, seed, 0.6, lr=lr), r)
    document = compare_runs(find_runs([tmp_path / "8", tmp_path / "16"]))
    found = {one["name"]: (one["seeds"], len(one["runs"])) for one in document["methods"]}
    assert found == {"lora adapter.r=8": ([1, 2], 4), "lora adapter.r=16": ([1, 2], 4)}
    assert not any("Left out" in warning for warning in document["warnings"])


def test_a_method_of_one_task_alone_does_not_keep_the_others_from_being_joined(tmp_path):
    for r, task in ((8, "t"), (16, "t"), (8, "u")):
        for seed in (1, 2):
            with_rank(head_run(tmp_path / str(r), "lora", task, seed, 0.6), r)
    document = compare_runs(find_runs([tmp_path / "8", tmp_path / "16"]))
    assert [one["name"] for one in document["methods"]] == ["lora adapter.r=8"]
    assert "lora adapter.r=16 seed=1 has no completed run on u" in document["warnings"][0]


def test_each_task_has_its_own_curve_of_rates(tmp_path):
    for task, best in (("t", 1e-3), ("u", 1e-2)):
        for lr in (1e-3, 1e-2):
            head_run(tmp_path, "lora", task, 1, 0.6, lr=lr, held_out=abs(lr - best))
    curves = compare_runs(find_runs([tmp_path]))["learning_rates"]["curves"]
    assert {name: curve["best"] for name, curve in curves.items()} == {
        "lora on t": 1e-3,
        "lora on u": 1e-2,
    }


def test_a_command_for_more_seeds_has_all_tasks(tmp_path):
    for adapter in SHARES:
        for task in ("t", "u"):
            head_run(tmp_path, adapter, task, 1, 0.6)
    (warning,) = [one for one in compare_runs(find_runs([tmp_path]))["warnings"] if "seed" in one]
    assert "'task=[t],[u]' seed=2,3" in warning


def test_without_a_seed_on_every_task_there_is_nothing_to_average(tmp_path):
    head_run(tmp_path, "lora", "t", 1, 0.6)
    head_run(tmp_path, "lora", "u", 2, 0.6)
    with pytest.raises(UserError, match="lora seed=1 has no completed run on u; lora seed=2"):
        compare_runs(find_runs([tmp_path]))
