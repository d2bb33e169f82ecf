"""The mask is Philox of seed, row and column, as an oracle in NumPy computes it."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from toplora_train.adapters.kernels.dropout import threshold_and_scale


def philox(counter: np.ndarray, seed: int, rounds: int = 7) -> np.ndarray:
    """Philox4x32 of counters ``(..., 4)``, from its paper's definition."""
    a, b, c, d = np.moveaxis(counter.astype(np.uint64), -1, 0)
    keys = [seed % 2**32, seed // 2**32 % 2**32]
    for _ in range(rounds):
        left, right = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        low = np.uint64(2**32 - 1)
        a, b = right >> np.uint64(32) ^ b ^ np.uint64(keys[0]), right & low
        c, d = left >> np.uint64(32) ^ d ^ np.uint64(keys[1]), left & low
        keys = [(keys[0] + 0x9E3779B9) % 2**32, (keys[1] + 0xBB67AE85) % 2**32]
    return np.stack([a, b, c, d], axis=-1)


def test_the_oracle_is_philox():
    """The known answers of Random123, the authors' library."""
    zeros = np.zeros(4, dtype=np.uint64)
    expected = {
        7: "5f6fb709 0d893f64 4f121f81 4f730a48",
        10: "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    }
    for rounds, words in expected.items():
        assert " ".join(f"{word:08x}" for word in philox(zeros, 0, rounds)) == words


@pytest.mark.parametrize("seed", [2**32 + 5, -2])
def test_the_mask_is_16_bits_of_philox_for_each_element(seed, mask, device):
    T, n, p = 70, 44, 0.3
    counter = np.zeros((T, -(-n // 8), 4), dtype=np.uint64)
    counter[..., 0] = np.arange(counter.shape[1])
    counter[..., 1] = np.arange(T)[:, None]
    words = philox(counter, seed % 2**64)
    bits = np.stack([words & np.uint64(0xFFFF), words >> np.uint64(16)], axis=-1).reshape(T, -1)
    expected = torch.from_numpy(bits[:, :n] >= round(2**16 * p)).to(device)
    assert torch.equal(mask(T, n, p, seed) > 0, expected)
    assert torch.equal(mask(T, n, p, torch.tensor(seed, device=device)) > 0, expected)


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_an_element_is_kept_with_probability_1_minus_p(p, mask):
    kept = (mask(128, 192, p, 17) > 0).double()
    error = (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 4 * error
    for axis in (0, 1):  # and no row or column is special
        spread = (p * (1 - p) / kept.shape[axis]) ** 0.5
        assert abs(kept.mean(dim=axis) - (1 - p)).max() < 5 * spread


def test_another_seed_is_another_mask_and_more_rows_change_none(mask):
    first = mask(33, 24, 0.5, 7) > 0
    assert torch.equal(first, mask(33, 24, 0.5, 7) > 0)
    equal = (first == (mask(33, 24, 0.5, 8) > 0)).double().mean()
    assert abs(equal - 0.5) < 4 * 0.5 / first.numel() ** 0.5
    assert torch.equal(first, mask(90, 24, 0.5, 7)[:33] > 0)


def test_the_scale_is_that_of_the_rounded_probability():
    assert threshold_and_scale(0.0) == (0, 1.0)
    assert threshold_and_scale(0.5) == (2**15, 2.0)
    threshold, scale = threshold_and_scale(0.05)
    assert threshold == 3277 and scale == 2**16 / (2**16 - 3277)
    assert scale == pytest.approx(1 / 0.95, rel=4e-6)
    assert threshold_and_scale(1e-9)[0] == 1 and threshold_and_scale(1 - 1e-9)[1] == 2**16


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_what_is_no_probability_below_one_is_refused(p):
    with pytest.raises(ValueError, match="0 <= p < 1"):
        threshold_and_scale(p)
