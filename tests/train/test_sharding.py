"""ZeRO-2 in two processes is tested in test_processes.py."""

import torch

from tests.train.test_step import lora_model
from toplora_train.models.sharded import full_tensor
from toplora_train.train.sharding import adapter_is_sharded, shard_like


def test_unsharded_tensors_are_returned_unchanged():
    tensor = torch.ones(3)
    assert full_tensor(tensor) is tensor
    assert shard_like({"a": tensor}, {"a": torch.zeros(3)})["a"] is tensor
    assert not adapter_is_sharded(lora_model())
