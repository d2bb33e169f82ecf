"""Every kernel compiles for an H100 and fits in it; Triton brings the assembler."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

COMPILE_ALL = """
import re, subprocess, sys, tempfile
from pathlib import Path
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from toplora_train.adapters.kernels import gate, projection

TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64"}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
ALIGNED = [["tt.divisibility", 16]]


class ForHopper:
    '''Compiles with the arguments of a launch, instead of launching.'''

    def __init__(self, function):
        self.function = function

    def __getitem__(self, grid):
        return self.compile

    def compile(self, *values, **options):
        signature, constants, attributes = {}, {}, {}
        for place, (parameter, value) in enumerate(zip(self.function.params, values)):
            if parameter.is_constexpr:
                signature[parameter.name], constants[(place,)] = "constexpr", value
                continue
            if isinstance(value, torch.Tensor):
                signature[parameter.name] = TYPES[value.dtype]
            else:
                signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, torch.Tensor) or parameter.name == "n":
                attributes[(place,)] = ALIGNED
        source = ASTSource(self.function, signature, constants, attributes)
        kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(kernel.asm["cubin"])
            file.flush()
            used = subprocess.check_output([CUOBJDUMP, "-res-usage", file.name], text=True)
        spilled = int(re.search(r"STACK:(\\d+)", used)[1])
        print(self.function.__name__, values[-4:], kernel.metadata.shared, spilled)
        assert kernel.metadata.shared <= 227 * 1024 and not spilled


for module in (gate, projection):
    for name, value in list(vars(module).items()):
        if isinstance(value, triton.JITFunction) and name not in ("kept", "_add_product"):
            setattr(module, name, ForHopper(value))

empty = lambda *shape, dtype: torch.empty(shape, dtype=dtype, device="meta")
seed = empty(dtype=torch.int64)
for dtype, T, n, k in [
    (torch.bfloat16, 16384, 4096, 16), (torch.bfloat16, 2048, 4096, 128),
    (torch.bfloat16, 16384, 4096, 512), (torch.float32, 16384, 4096, 16),
    (torch.float32, 16384, 4096, 512),
]:
    x, K, hidden = empty(T, n, dtype=dtype), empty(k, n, dtype=dtype), empty(T, k, dtype=dtype)
    projection.project(x, K, 0.05, seed, k // 2)
    projection.project_backward_input(hidden, K, 0.05, seed, k // 2, x)
    projection.project_backward_weight(hidden, x, 0.05, seed, k // 2)
    gain = empty(k // 2, dtype=torch.float32)
    gate.gated(hidden, gain, 1.0, 1e-6)
    gate.gated_backward(hidden[:, : k // 2], hidden, gain, 1.0, 1e-6)
"""


@pytest.mark.slow
def test_no_kernel_spills_registers_or_needs_more_shared_memory_than_there_is(tmp_path):
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    script = tmp_path / "compile_all.py"  # Triton reads the source of what it compiles
    script.write_text(COMPILE_ALL)
    result = subprocess.run(
        [sys.executable, str(script)],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("_project") == 15 and result.stdout.count("_gated") == 10
