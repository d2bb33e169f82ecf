import torch

from toplora_train.adapters.autocast import autocast_dtype, without_autocast


def test_the_dtype_is_autocasts_where_it_is_on():
    x = torch.zeros(2)
    assert autocast_dtype(x) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert autocast_dtype(x) is torch.bfloat16


def test_inside_nothing_is_cast():
    x = torch.zeros(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype is torch.bfloat16
        with without_autocast(x):
            assert (x @ x).dtype is torch.float32


def test_there_is_none_on_the_meta_device():
    x = torch.zeros(2, device="meta")
    with torch.autocast("cpu", dtype=torch.bfloat16), without_autocast(x):
        assert autocast_dtype(x) is None
