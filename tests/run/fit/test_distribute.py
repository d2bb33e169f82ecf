import torch
from accelerate import Accelerator

from tests.train.test_step import adamw, lora_model
from toplora_train.run.fit.distribute import prepare_model, unwrap_model


def test_one_process_has_nothing_to_share_out(make_run):
    model = lora_model()
    for engine in ("ddp", "fsdp2", "zero2", "zero3"):
        joined, optimizer = prepare_model(
            model, adamw, engine=engine, accelerator=Accelerator(cpu=True)
        )
        assert joined is model
        assert isinstance(optimizer, torch.optim.Optimizer)
    parted = unwrap_model(joined, make_run(), None, accelerator=Accelerator(cpu=True))
    assert parted is model
    assert not parted.training
