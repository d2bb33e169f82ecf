"""Two real processes train the same losses and adapters as one."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from tests.processes import in_two_processes
from tests.train import several
from tests.train.several import DEFAULT, SHARDED, TRAINED, train_one
from toplora_train.train.processes import (
    all_reduce_max,
    micro_batches,
    random_states,
    restore_random_state,
    shares,
)


def test_every_row_is_assigned_once_and_processes_get_equally_many_micro_batches():
    for count in range(1, 14):
        rows = list(range(count))
        split = shares(rows, size=2, processes=3)
        assert sorted(row for by_process in split for part in by_process for row in part) == rows
        assert all(len(by_process) == 3 for by_process in split)
        assert all(len(part) <= 2 for by_process in split for part in by_process)
    assert shares([9, 8, 7, 6, 5, 4, 3], size=2, processes=2) == [[[9, 7], [8, 6]], [[5, 3], [4]]]


def test_a_single_process_keeps_the_row_order():
    assert shares([3, 1, 2], size=2, processes=1) == [[[3, 1]], [[2]]]


def test_a_process_without_rows_computes_anothers_with_weight_zero():
    class Second:
        num_processes, process_index = 2, 1

    made = micro_batches([5, 6, 7], size=1, accelerator=Second(), collate=lambda rows: {"r": rows})
    assert [(micro.batch["r"], micro.weight) for micro in made] == [([6], 1.0), ([7], 0.0)]


def test_the_maximum_over_a_single_process_is_its_value():
    accelerator = Accelerator(cpu=True)
    assert all_reduce_max(15, accelerator) == 15
    assert torch.equal(random_states(accelerator)["cpu"][0], torch.get_rng_state())


def test_every_process_restores_its_own_rng_state():
    class Second:
        num_processes, process_index, device = 2, 1, torch.device("cpu")

    states, expected = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(torch.get_rng_state())
        expected.append(torch.rand(3))
    restore_random_state({"cpu": torch.stack(states)}, Second())
    assert torch.equal(torch.rand(3), expected[1])


def test_rng_states_of_a_different_number_of_processes_are_ignored_with_a_warning(caplog):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    restore_random_state({"cpu": torch.stack([before, before])}, Accelerator(cpu=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert "by 2 processes, this run has 1" in caplog.text


@pytest.fixture(scope="module")
def of_two(tmp_path_factory, request) -> Path:
    """The folder with two processes' losses and tensors of every adapter that is tested."""
    folder = tmp_path_factory.mktemp("two")
    tests = (i for i in request.session.items if "of_two" in getattr(i, "fixturenames", ()))
    adapters = "all" if any(test.get_closest_marker("slow") for test in tests) else "default"
    assert in_two_processes(folder, several.run, folder, adapters == "default")
    return folder


def by_default(names: tuple[str, ...]) -> list:
    marks = {name: [] if name in DEFAULT else pytest.mark.slow for name in names}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


@pytest.mark.parametrize("name", by_default(TRAINED))
def test_two_processes_train_what_one_trains(tmp_path: Path, of_two: Path, name: str):
    """The last batch of an epoch is a single row: one process has none."""
    accelerator = Accelerator(cpu=True)
    train_one(name, tmp_path, accelerator)
    alone, both = (load_file(folder / f"{name}.safetensors") for folder in (tmp_path, of_two))
    torch.testing.assert_close(both.pop("numbers"), alone.pop("numbers"), rtol=1e-6, atol=0)
    for key, tensor in alone.items():
        torch.testing.assert_close(both[key], tensor, rtol=0, atol=1e-5, msg=key)


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
@pytest.mark.parametrize("name", by_default(SHARDED))
def test_sharded_training_matches_ddp(of_two: Path, name: str, stage: str):
    """ZeRO stages 2 and 3, including TensLoRA's tensors in the root unit."""
    ddp, zero = (load_file(f / f"{name}.safetensors") for f in (of_two, of_two / stage))
    torch.testing.assert_close(zero.pop("numbers"), ddp.pop("numbers"), rtol=1e-6, atol=0)
    for key, tensor in ddp.items():
        torch.testing.assert_close(zero[key], tensor, rtol=0, atol=1e-5, msg=key)


def test_if_one_process_runs_out_of_memory_all_halve_and_results_do_not_change(of_two: Path):
    enough, full = (load_file(of_two / name / "lora.safetensors") for name in ("enough", "full"))
    assert (of_two / "log").read_text().count("retrying with trainer.micro_batch_size=1") == 2
    torch.testing.assert_close(full.pop("numbers"), enough.pop("numbers"), rtol=1e-6, atol=0)
    for key, tensor in enough.items():
        torch.testing.assert_close(full[key], tensor, rtol=0, atol=1e-5, msg=key)


def test_activation_checkpointing_changes_nothing_in_two_processes(of_two: Path):
    kept, recomputed = (
        load_file(folder / "tenslora.safetensors") for folder in (of_two, of_two / "recomputed")
    )
    for key, tensor in kept.items():
        torch.testing.assert_close(recomputed[key], tensor, rtol=0, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", ["lora", "tenslora"])
def test_the_micro_batch_size_does_not_change_results(tmp_path: Path, name: str):
    folders = []
    for size in (1, 4):
        folders.append(tmp_path / str(size))
        folders[-1].mkdir()
        train_one(name, folders[-1], Accelerator(cpu=True), micro_batch_size=size)
    small, large = (load_file(folder / f"{name}.safetensors") for folder in folders)
    torch.testing.assert_close(small.pop("numbers"), large.pop("numbers"), rtol=1e-6, atol=0)
    for key, tensor in large.items():
        torch.testing.assert_close(small[key], tensor, rtol=0, atol=1e-5, msg=key)
