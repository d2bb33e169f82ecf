"""Triton's interpreter, on machines without a CUDA device, as kernels need it."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest


@contextmanager
def interpreted_library() -> Iterator[pytest.MonkeyPatch]:
    """Inside, functions of Triton's own library are interpreted, whoever imported it before.

    And what the interpreter does not know of yet: products of bfloat16, which it holds as integers
    and would multiply as such, and numbers given to a kernel, which in a kernel are tensors.
    """
    import triton.language as tl
    from triton.runtime import JITFunction, interpreter
    from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle

    multiply, convert = InterpreterBuilder.create_dot, interpreter._implicit_cvt

    def wide(handle: TensorHandle) -> TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self, a, b, *rest):
        return multiply(self, wide(a), wide(b), *rest)

    def implicit_cvt(argument):
        if not isinstance(argument, float):
            return convert(argument)
        return tl.tensor(TensorHandle(np.array([argument], np.float32), tl.float32), tl.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_dot", create_dot)
        patch.setattr(interpreter, "_implicit_cvt", implicit_cvt)
        for name, function in list(vars(tl).items()):
            if isinstance(function, JITFunction):
                patch.setattr(tl, name, InterpretedFunction(function.fn))
        yield patch
