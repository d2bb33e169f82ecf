import logging
from pathlib import Path

import pytest
import torch

from toplora_train.models.tiny import tiny_model
from toplora_train.run.platform import cpu_matmul
from toplora_train.run.platform.cpu_matmul import (
    LARGEST_ERROR,
    LONG,
    PRODUCTS,
    choose_matmul,
    largest_error,
)


@pytest.fixture(autouse=True)
def as_before():
    """Every test begins with torch's own choice, and the session's comes back."""
    before, PRODUCTS.fp32_precision = PRODUCTS.fp32_precision, "ieee"
    yield
    PRODUCTS.fp32_precision = before


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


def test_products_of_the_faster_library_are_as_exact(caplog):
    with caplog.at_level(logging.INFO):
        taken = choose_matmul()
    assert taken == ("oneDNN" in caplog.text)
    assert taken == (PRODUCTS.fp32_precision == "bf16")
    assert largest_error() < LARGEST_ERROR
    assert choose_matmul() == taken


def test_leave_to_round_is_withdrawn_where_use_is_made_of_it(monkeypatch):
    monkeypatch.setattr(cpu_matmul, "_mkl_is_slow", lambda: True)
    monkeypatch.setattr(cpu_matmul, "largest_error", lambda: 2e-3)
    assert not choose_matmul()
    assert PRODUCTS.fp32_precision != "bf16"


@pytest.mark.parametrize(
    ("capability", "vendor"), [("AVX2", "AuthenticAMD"), ("AVX512", "GenuineIntel")]
)
def test_on_other_processors_torch_is_left_alone(monkeypatch, capability, vendor):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"vendor_id : {vendor}")
    assert not choose_matmul()
    assert PRODUCTS.fp32_precision != "bf16"


@pytest.mark.parametrize("tokens", [8, LONG])
def test_the_products_of_a_model_are_the_same_but_for_rounding(monkeypatch, tokens):
    model, leaves = tiny_model(), []
    attend = torch.nn.functional.scaled_dot_product_attention

    def training_stats(*args, **kwargs):
        leaves.append(PRODUCTS.fp32_precision)
        return attend(*args, **kwargs)

    ids = torch.arange(2 * tokens).view(2, tokens) % 200

    def step():
        model.zero_grad()
        output = model(input_ids=ids, labels=ids)
        output.loss.backward()
        return output.logits, model.model.layers[0].self_attn.q_proj.weight.grad

    logits, gradient = step()
    taken = choose_matmul()
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", training_stats)
    other_logits, other_gradient = step()
    torch.testing.assert_close(other_logits, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-4, atol=1e-6)
    expected = "bf16" if taken and tokens >= LONG else "ieee"
    assert set(leaves) == {expected}
    assert PRODUCTS.fp32_precision == ("bf16" if taken else "ieee")
