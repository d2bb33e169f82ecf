"""The checks' own tools fail where they must."""

import pytest
import torch

from toplora_train.contract.subject import no_network, refused, require_same


def test_a_block_that_raises_nothing_or_another_line_fails():
    with pytest.raises(AssertionError, match="nothing was raised"), refused(KeyError, "x"):
        pass
    with pytest.raises(AssertionError, match="must match 'two'"), refused(ValueError, "two"):
        raise ValueError("one")
    with refused(ValueError, "o.e"):
        raise ValueError("one")


def test_different_bits_fail_with_their_distance():
    with pytest.raises(AssertionError, match=r"the logits differ by up to 0\.5; they"):
        require_same(torch.tensor([1.0]), torch.tensor([1.5]), "the logits")


def test_the_network_is_not_there():
    import socket

    with no_network(), pytest.raises(AssertionError, match="it used the network"):
        socket.getaddrinfo("example.org", 80)
