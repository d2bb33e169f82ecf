import torch
from accelerate import Accelerator

from tests.train.test_step import adamw, lora_model
from toplora_train.run.fit.distribute import prepare_model, unwrap_model


def test_a_single_process_does_not_shard(make_run):
    model = lora_model()
    for engine in ("ddp", "fsdp2", "zero2", "zero3"):
        prepared, optimizer = prepare_model(
            model, adamw, engine=engine, accelerator=Accelerator(cpu=True)
        )
        assert prepared is model
        assert isinstance(optimizer, torch.optim.Optimizer)
    unwrapped = unwrap_model(prepared, make_run(), None, accelerator=Accelerator(cpu=True))
    assert unwrapped is model
    assert not unwrapped.training
