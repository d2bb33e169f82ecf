import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from tests.train.test_loop import start_training
from tests.train.test_step import adamw, examples, lora_model
from toplora_train.data.batches import collate
from toplora_train.train.checkpoint import adapter_tensors
from toplora_train.train.find_micro_batch_size import find_micro_batch_size, pass_within_memory
from toplora_train.train.step import supervised_loss

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."


def limited(rows: int, *, from_call: int = 0):
    """A loss that runs out of memory above ``rows`` rows, from some call on."""
    calls = 0

    def loss(model, batch, device):
        nonlocal calls
        calls += 1
        if calls > from_call and len(batch["input_ids"]) > rows:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return supervised_loss(model, batch, device)

    return loss


@pytest.mark.parametrize(("rows", "found"), [(8, 8), (7, 4), (3, 2), (1, 1)])
def test_the_largest_micro_batch_that_fits_is_found_by_halving(rows: int, found: int):
    model = lora_model()
    state = torch.get_rng_state()
    size = find_micro_batch_size(
        model,
        examples(),
        most=8,
        collate=lambda some: collate(some, 0),
        loss=limited(rows),
        accelerator=Accelerator(cpu=True),
    )
    assert size == found
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_longest_rows_are_tried():
    seen = []
    find_micro_batch_size(
        lora_model(),
        examples(),
        most=2,
        collate=lambda some: seen.extend(len(e.input_ids) for e in some) or collate(some, 0),
        loss=supervised_loss,
        accelerator=Accelerator(cpu=True),
    )
    lengths = sorted((len(example.input_ids) for example in examples()), reverse=True)
    assert seen == lengths[:2]


def test_a_pass_that_runs_out_of_memory_is_repeated_with_half_the_rows():
    tried = []

    def step(size: int) -> str:
        tried.append((size, torch.rand(1).item()))
        if size > 2:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return "taken"

    assert pass_within_memory(step, 8, Accelerator(cpu=True)) == ("taken", 2)
    assert [size for size, _ in tried] == [8, 4, 2]
    assert len({drawn for _, drawn in tried}) == 1  # the same RNG state each time


def test_one_row_that_does_not_fit_and_other_errors_are_not_caught():
    def fails(message: str):
        def step(_size: int) -> str:
            raise RuntimeError(message)

        return step

    with pytest.raises(RuntimeError, match="out of memory"):
        pass_within_memory(fails(OUT_OF_MEMORY), 4, Accelerator(cpu=True))
    with pytest.raises(RuntimeError, match="shapes"):
        pass_within_memory(fails("shapes differ"), 4, Accelerator(cpu=True))


def test_running_out_of_memory_at_step_seven_ends_with_the_same_adapter(tmp_path: Path, caplog):
    def trained(folder: Path, loss) -> tuple[list[float], dict]:
        model = lora_model()
        records = start_training(
            model, adamw(model), folder, total_steps=9, micro_batch_size=3, loss=loss, log_every=1
        )
        return [record.loss for record in records], adapter_tensors(model)

    losses, tensors = trained(tmp_path / "whole", supervised_loss)
    # An epoch of 8 rows is 3 steps of one micro-batch each, so the 7th call is step 7.
    cut_losses, cut_tensors = trained(tmp_path / "cut", limited(1, from_call=6))
    assert "trainer.micro_batch_size=1" in caplog.text
    assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(losses, cut_losses, strict=True))
    for name, tensor in tensors.items():
        torch.testing.assert_close(cut_tensors[name], tensor, rtol=0, atol=1e-5)
