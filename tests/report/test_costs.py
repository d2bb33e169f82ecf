from pathlib import Path

import pytest

from tests.report.run_folders import run_folder
from toplora_train.report.costs import mark_front, method_costs, step_time_warning
from toplora_train.report.joint import join_tasks
from toplora_train.report.methods import group
from toplora_train.report.runs import find_runs


def methods(folder: Path):
    return group(find_runs([folder]))


def test_step_times_are_medians_relative_to_the_reference(tmp_path: Path):
    for name, adapter, times in (("a", "lora", (0.5, 0.1)), ("b", "dora", (0.9,))):
        for seed, seconds in enumerate(times):
            run_folder(tmp_path / f"{name}{seed}", adapter=adapter, seed=seed, step_seconds=seconds)
    found = methods(tmp_path)
    costs = method_costs(found, found[0])
    assert costs["lora"]["step_seconds"] == pytest.approx(0.3)
    assert costs["lora"]["relative_step"] == 1
    assert costs["dora"]["relative_step"] == pytest.approx(3)
    assert step_time_warning(found) == (
        "Relative step times are rough: those of lora's own runs differ by a factor of 5.0. "
        "Something else ran on the machine."
    )


def test_the_size_of_the_adapters_file_is_read_from_the_folder(tmp_path: Path):
    folder = run_folder(tmp_path / "a")
    found = methods(tmp_path)
    assert method_costs(found, found[0])["lora"]["adapter_bytes"] is None
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"12345")
    found = methods(tmp_path)
    assert method_costs(found, found[0])["lora"]["adapter_bytes"] == 5
    assert method_costs(found, found[0])["lora"]["step_seconds"] is None
    assert step_time_warning(found) is None


def on(device: str) -> dict:
    return {"device": device, "packages": {}}


def test_runs_of_different_machines_have_no_relative_step_time(tmp_path: Path):
    run_folder(tmp_path / "a", step_seconds=1.0, environment=on("cpu"))
    run_folder(tmp_path / "b", step_seconds=1.0, adapter="dora", environment=on("cuda"))
    found = methods(tmp_path)
    assert [one["relative_step"] for one in method_costs(found, found[0]).values()] == [None, None]
    warning = step_time_warning(found)
    assert "different machines (cpu" in warning
    assert "; cuda" in warning


def test_step_times_of_tasks_of_other_lengths_are_not_taken_for_a_disturbance(tmp_path: Path):
    for task, seconds in (("t", 0.1), ("u", 0.3)):
        for adapter in ("lora", "dora"):
            run_folder(
                tmp_path / f"{adapter}-{task}",
                adapter=adapter,
                right={task: [True, False] * 10},
                kind="classify",
                step_seconds=seconds,
            )
    found, _ = join_tasks(find_runs([tmp_path]))
    assert len(found[0].each) == 2
    assert step_time_warning(found) is None


def test_a_method_is_on_the_front_unless_another_one_is_as_good_and_as_cheap():
    table = [(0.5, 10), (0.6, 20), (0.55, 30), (0.5, 12), (0.6, 20), (0.7, None), (None, 1)]
    listed = [{"average": average, "cost": cost} for average, cost in table]
    assert mark_front(listed, "cost") == [True, True, False, False, True, False, False]


def test_forgetting_is_the_mean_change_of_the_loss_on_the_same_text(tmp_path: Path):
    def change(difference: float, text: str = "a") -> dict:
        losses = {"before": 1.0, "after": 1.0 + difference, "difference": difference}
        counts = {"documents": 2, "tokens": 9}
        return {"text": "t", "sha256": text, "ci95": [0.0, 0.1], **losses, **counts}

    for seed, difference in ((1, 0.02), (2, 0.04)):
        run_folder(tmp_path / f"l{seed}", seed=seed, forgetting=change(difference))
    run_folder(tmp_path / "d", adapter="dora", forgetting=change(0.5))
    found = group(find_runs([tmp_path]))
    costs = method_costs(found, found[0])
    assert {name: cost["forgetting"] for name, cost in costs.items()} == {
        "lora": pytest.approx(0.03),
        "dora": 0.5,
    }
    run_folder(tmp_path / "other", adapter="toplora", forgetting=change(0.1, "b"))
    found = group(find_runs([tmp_path]))
    assert {cost["forgetting"] for cost in method_costs(found, found[0]).values()} == {None}
