import resource

import pytest
import torch

from toplora_train.run.platform.cpu_malloc import keep_freed_memory

MEGABYTES, TIMES = 8, 50


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_a_tensor_reuses_the_pages_of_the_last_one():
    if not keep_freed_memory():
        pytest.skip("this C library has no mallopt")
    size = MEGABYTES * 2**20
    torch.zeros(size, dtype=torch.uint8).fill_(1)
    before = faults()
    for _ in range(TIMES):
        torch.empty(size, dtype=torch.uint8).fill_(1)
    fresh = TIMES * size // resource.getpagesize()
    assert faults() - before < fresh / 20
