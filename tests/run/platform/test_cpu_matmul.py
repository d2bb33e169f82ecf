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
    """Every test starts with torch's default; the session's setting is restored."""
    before, PRODUCTS.fp32_precision = PRODUCTS.fp32_precision, "ieee"
    yield
    PRODUCTS.fp32_precision = before


def test_rounded_inputs_are_distinguished_from_rounded_sums(monkeypatch):
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


def test_products_of_the_faster_library_are_accurate(caplog):
    with caplog.at_level(logging.INFO):
        taken = choose_matmul()
    assert taken == ("oneDNN" in caplog.text)
    assert taken == (PRODUCTS.fp32_precision == "bf16")
    assert largest_error() < LARGEST_ERROR
    assert choose_matmul() == taken


def test_the_permission_to_round_is_withdrawn_where_it_is_used(monkeypatch):
    monkeypatch.setattr(cpu_matmul, "_mkl_is_slow", lambda: True)
    monkeypatch.setattr(cpu_matmul, "largest_error", lambda: 2e-3)
    assert not choose_matmul()
    assert PRODUCTS.fp32_precision != "bf16"


@pytest.mark.parametrize(
    ("capability", "vendor"), [("AVX2", "AuthenticAMD"), ("AVX512", "GenuineIntel")]
)
def test_on_other_processors_torchs_default_stays(monkeypatch, capability, vendor):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"vendor_id : {vendor}")
    assert not choose_matmul()
    assert PRODUCTS.fp32_precision != "bf16"


@pytest.mark.parametrize("tokens", [8, LONG])
def test_a_models_results_are_the_same_up_to_rounding(monkeypatch, tokens):
    model, precisions = tiny_model(), []
    attend = torch.nn.functional.scaled_dot_product_attention

    def recorded(*args, **kwargs):
        precisions.append(PRODUCTS.fp32_precision)
        return attend(*args, **kwargs)

    ids = torch.arange(2 * tokens).view(2, tokens) % 200

    def step():
        model.zero_grad()
        output = model(input_ids=ids, labels=ids)
        output.loss.backward()
        return output.logits, model.model.layers[0].self_attn.q_proj.weight.grad

    logits, gradient = step()
    taken = choose_matmul()
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    other_logits, other_gradient = step()
    torch.testing.assert_close(other_logits, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-4, atol=1e-6)
    expected = "bf16" if taken and tokens >= LONG else "ieee"
    assert set(precisions) == {expected}
    assert PRODUCTS.fp32_precision == ("bf16" if taken else "ieee")
