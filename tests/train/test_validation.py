import pytest
import torch
from accelerate import Accelerator

from tests.train.test_step import CPU, examples, lora_model
from toplora_train.data.batches import collate
from toplora_train.train.step import supervised_loss
from toplora_train.train.validation import validation_loss


@pytest.mark.parametrize("size", [1, 3, 8])
def test_validation_loss_is_per_supervised_token_at_any_batch_size(size: int):
    model, rows = lora_model().train(), examples()
    measured = validation_loss(
        model,
        rows,
        accelerator=Accelerator(cpu=True),
        micro_batch_size=size,
        collate=lambda some: collate(some, 0),
        loss=supervised_loss,
    )
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        summed = supervised_loss(model.eval(), collate(rows, 0), CPU)
    tokens = sum(len(row.input_ids) - row.prompt_length for row in rows)
    assert measured == pytest.approx(float(summed) / tokens, rel=1e-6)
