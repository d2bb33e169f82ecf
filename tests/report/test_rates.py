from pathlib import Path

import pytest

from tests.report.made_up import made_up_report
from tests.report.run_folders import run_folder
from toplora_train.report.held_out import HeldOut
from toplora_train.report.methods import group
from toplora_train.report.rates import edge_warnings, learning_rates, near_warnings, rate_curve
from toplora_train.report.runs import find_runs


def curves(folder: Path):
    return learning_rates(group(find_runs([folder])))


def sweep(folder: Path, adapter: str, losses):
    for lr, values in losses.items():
        for seed, loss in enumerate(values):
            run_folder(
                folder / f"{adapter}-{lr}-{seed}", adapter=adapter, lr=lr, seed=seed, held_out=loss
            )


def test_the_best_rate_has_the_lowest_mean_loss(tmp_path: Path):
    sweep(tmp_path, "lora", {1e-3: [2.0, 2.2], 1e-4: [3.0, 3.0], 1e-2: [2.5, 2.5]})
    sweep(tmp_path, "toplora", {1e-3: [1.9, 1.9], 1e-4: [2.5, 2.4], 1e-2: [1.0, 1.2]})
    found = curves(tmp_path)
    assert found["metric"] == "validation loss"
    lora, toplora = found["curves"]["lora"], found["curves"]["toplora"]
    assert [point["rate"] for point in lora["points"]] == [1e-4, 1e-3, 1e-2]
    assert [point["mean"] for point in lora["points"]] == pytest.approx([3.0, 2.1, 2.5])
    assert (lora["best"], lora["edge"]) == (1e-3, None)
    assert (toplora["best"], toplora["edge"]) == (1e-2, pytest.approx(1e-1))
    assert edge_warnings(found) == [
        "The best rate of toplora lies at the grid's edge (1e-2); extend the grid by "
        "1e-1 (optimizer.lr)."
    ]


def test_a_flat_curve_has_no_best_rate_to_go_beyond(tmp_path: Path):
    sweep(tmp_path, "lora", {1e-3: [2.0], 1e-4: [2.0], 1e-2: [2.0]})
    found = curves(tmp_path)
    assert found["curves"]["lora"]["edge"] is None
    (warning,) = edge_warnings(found)
    assert warning.startswith("lora has the same held-out score at every learning rate")


def test_a_rate_with_failed_runs_is_not_the_best():
    good, bad = HeldOut("validation loss", 0.1, None), HeldOut("validation loss", 0.5, None)
    diverged = HeldOut("validation loss", float("nan"), None)
    for failed in (None, diverged):
        curve = rate_curve({1e-3: [bad, bad], 1e-2: [good, failed]})
        assert (curve["best"], curve["near"]) == (1e-3, [])
    assert rate_curve({1e-3: [bad, None], 1e-2: [good, None]})["best"] == 1e-2
    assert rate_curve({1e-3: [None]}) is None
    # a rate at which every run failed was tried: the grid need not be extended by it
    assert rate_curve({1e-3: [bad], 1e-2: [good], 1e-1: [diverged]})["edge"] is None


def test_a_selected_epochs_metric_is_higher_the_better(tmp_path: Path):
    for lr, value in ((1e-3, 0.7), (1e-4, 0.6)):
        run_folder(tmp_path / str(lr), lr=lr, train=selected("accuracy", value))
    found = curves(tmp_path)
    assert found["metric"] == "accuracy"
    assert found["curves"]["lora"]["best"] == 1e-3


def test_rates_within_one_standard_error_of_an_accuracy_are_near(tmp_path: Path):
    # 70 of 100 rows, and two right and two wrong ones more for the variance: 4.6 points
    for lr, value in ((1e-4, 0.64), (3e-4, 0.66), (1e-3, 0.7), (3e-3, 0.5)):
        run_folder(tmp_path / str(lr), lr=lr, train=selected("accuracy", value, rows=100))
    found = curves(tmp_path)
    curve = found["curves"]["lora"]
    assert (curve["best"], curve["near"]) == (1e-3, [3e-4])
    assert curve["points"][2]["error"] == pytest.approx((72 * 32 / 104**2 / 100) ** 0.5)
    (warning,) = near_warnings(found)
    assert "rows: lora 1e-3 (or 3e-4). The verdicts do not include this chance." in warning


@pytest.mark.parametrize(("values", "error"), [([0.7, 0.7], 0.03264), ([0.6, 0.8], 0.1)])
def test_more_seeds_make_the_error_smaller_unless_they_differ(tmp_path: Path, values, error):
    for seed, value in enumerate(values):
        for lr in (1e-3, 1e-4):
            train = selected("accuracy", value if lr == 1e-3 else 0.1, rows=100)
            run_folder(tmp_path / f"{lr}{seed}", lr=lr, seed=seed, train=train)
    point = curves(tmp_path)["curves"]["lora"]["points"][1]
    assert point["error"] == pytest.approx(error, rel=2e-3)


def test_an_accuracy_of_one_is_not_certain(tmp_path: Path):
    for lr, value in ((1e-4, 0.98), (3e-4, 0.99), (1e-3, 1.0), (1e-2, 1.0)):
        run_folder(tmp_path / str(lr), lr=lr, train=selected("accuracy", value, rows=100))
    assert curves(tmp_path)["curves"]["lora"]["near"] == [3e-4, 1e-2]


def test_losses_have_an_error_if_there_are_several_seeds(tmp_path: Path):
    sweep(tmp_path, "lora", {1e-3: [2.0], 1e-4: [2.01]})
    sweep(tmp_path, "dora", {1e-3: [2.0, 2.2], 1e-4: [2.15, 2.15], 1e-2: [2.3, 2.3]})
    found = curves(tmp_path)
    one, two = (found["curves"][name] for name in ("lora", "dora"))
    assert one["near"] == []
    assert [point["error"] for point in one["points"]] == [None, None]
    # the deviation of 2.0 and 2.2 is 0.141, that of their mean 0.1
    assert two["points"][1]["error"] == pytest.approx(0.1)
    assert (two["best"], two["near"]) == (1e-3, [1e-4])
    near, unknown = near_warnings(found)
    assert "dora 1e-3 (or 1e-4)" in near
    assert "gives the validation loss no standard error, so how certain the best rates of lora" in (
        unknown
    )


def test_a_flat_curve_is_not_also_said_to_be_chance(tmp_path: Path):
    for lr in (1e-3, 1e-4):
        run_folder(tmp_path / str(lr), lr=lr, train=selected("accuracy", 0.5))
    found = curves(tmp_path)
    assert len(edge_warnings(found)) == 1
    assert near_warnings(found) == near_warnings(None) == []


def selected(metric: str, value: float, rows: int = 9):
    import dataclasses

    train = made_up_report().train
    epochs = [{"step": 5, "epoch": 1.0, "value": value}, {"step": 9, "epoch": 2.0, "value": 0.0}]
    return dataclasses.replace(
        train, selection={"metric": metric, "rows": rows, "step": 5, "epoch": 1.0, "epochs": epochs}
    )


def test_there_are_no_curves_without_held_out_rows_or_with_one_rate(tmp_path: Path):
    run_folder(tmp_path / "a", lr=1e-3)
    run_folder(tmp_path / "b", lr=1e-4)
    assert curves(tmp_path) is None
    run_folder(tmp_path / "c", adapter="toplora", held_out=1.0)
    assert curves(tmp_path) is None
    assert edge_warnings(None) == []
