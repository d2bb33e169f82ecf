"""FSDP2 itself is tested in two processes, see test_processes.py."""

import torch

from tests.train.test_step import lora_model
from toplora_train.train.sharding import is_shared_out, shared_out_like, whole


def test_what_is_not_shared_out_stays_as_it_is():
    tensor = torch.ones(3)
    assert whole(tensor) is tensor
    assert shared_out_like({"a": tensor}, {"a": torch.zeros(3)})["a"] is tensor
    assert not is_shared_out(lora_model())
