import os
import resource
import subprocess
import sys
from pathlib import Path

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


HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
IN_HUGE_PAGES = """
import toplora_train, torch
tensor = torch.ones(2**24)
rows = open("/proc/self/smaps").read().splitlines()
print(sum(int(row.split()[1]) for row in rows if row.startswith("AnonHugePages")) > 2**15)
"""


@pytest.mark.skipif(
    not HUGE.is_file() or "[madvise]" not in HUGE.read_text(), reason="needs huge pages on request"
)
@pytest.mark.parametrize(("value", "huge"), [(None, "True"), ("0", "False")])
def test_a_large_tensor_is_in_huge_pages_unless_the_environment_says_no(value, huge):
    given = {} if value is None else {"THP_MEM_ALLOC_ENABLE": value}
    inherited = {key: val for key, val in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run(
        [sys.executable, "-c", IN_HUGE_PAGES],
        capture_output=True,
        text=True,
        check=True,
        env=inherited | given,
    )
    assert done.stdout.strip() == huge
