import logging
from pathlib import Path

import pytest
import torch

from toplora_train.jobs import products
from toplora_train.jobs.products import LARGEST_ERROR, largest_error, speed_up_products

needs_setting = pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, "matmul"), reason="this torch has no such setting"
)


@pytest.fixture(autouse=True)
def as_before():
    """Every test begins with torch's own choice, and the session's comes back."""
    settings = torch.backends.mkldnn.matmul
    before, settings.fp32_precision = settings.fp32_precision, "ieee"
    yield
    settings.fp32_precision = before


def test_a_rounded_factor_is_told_from_a_rounded_sum(monkeypatch):
    assert largest_error() < LARGEST_ERROR / 2
    multiply = torch.nn.functional.linear
    for bits in (8, 11):  # bf16, tf32: so many bits of a number are kept
        step = 2.0 ** (24 - bits)

        def rounded(left, right, step=step):
            def cut(x):
                big = x * (1 + step)
                return big - (big - x)

            return multiply(cut(left), cut(right))

        monkeypatch.setattr(torch.nn.functional, "linear", rounded)
        assert largest_error() > 3 * LARGEST_ERROR


@needs_setting
def test_products_of_the_faster_library_are_as_exact(caplog):
    with caplog.at_level(logging.INFO):
        taken = speed_up_products()
    assert taken == ("oneDNN" in caplog.text)
    assert taken == (torch.backends.mkldnn.matmul.fp32_precision == "bf16")
    assert largest_error() < LARGEST_ERROR
    assert speed_up_products() == taken


@needs_setting
def test_leave_to_round_is_withdrawn_where_use_is_made_of_it(monkeypatch):
    monkeypatch.setattr(products, "_mkl_is_slow", lambda: True)
    monkeypatch.setattr(products, "largest_error", lambda: 2e-3)
    assert not speed_up_products()
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"


@needs_setting
@pytest.mark.parametrize(
    ("capability", "vendor"), [("AVX2", "AuthenticAMD"), ("AVX512", "GenuineIntel")]
)
def test_on_other_processors_torch_is_left_alone(monkeypatch, capability, vendor):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"vendor_id : {vendor}")
    assert not speed_up_products()
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"
