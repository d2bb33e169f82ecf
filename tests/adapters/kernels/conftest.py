"""The kernels on a CUDA device where there is one, in Triton's interpreter elsewhere.

The interpreter is chosen when a function is decorated: for the kernels here, while the modules are
imported; for those of Triton's own library that they call, in a fixture, because something else may
have imported Triton before. Neither stays: the other tests see the Triton they would see alone.
"""

import importlib.util
from collections.abc import Callable, Iterator

import pytest
import torch

from tests.interpreter import interpreted_library

INTERPRETED = importlib.util.find_spec("triton") is not None and not torch.cuda.is_available()

if INTERPRETED:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import toplora_train.adapters.kernels.gate
        import toplora_train.adapters.kernels.projection  # noqa: F401


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="package", autouse=True)
def _interpreted_library() -> Iterator[None]:
    if not INTERPRETED:
        yield
        return
    with interpreted_library():
        yield


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that a kernel is to fill holds NaN: what it forgets is seen."""

    def poisoned(allocate):
        def allocated(*args, **kwargs):
            return allocate(*args, **kwargs).fill_(float("nan"))

        return allocated

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))


@pytest.fixture
def mask(device: torch.device) -> Callable[..., torch.Tensor]:
    """``kept / P(kept)``, ``(T, n)``: what a product of ones adds to zeros."""
    pytest.importorskip("triton")
    from toplora_train.adapters.kernels.projection import project_backward_input

    def read(T: int, n: int, p: float, seed: int | torch.Tensor) -> torch.Tensor:
        seen, ones = torch.zeros(T, n, device=device), torch.ones(T + n, 1, device=device)
        project_backward_input(ones[:T], ones[T:].T.contiguous(), p, seed, 1, seen)
        assert len(seen.unique()) <= 2
        return seen

    return read
