import pytest
import torch

from toplora_train.models.half import SHORT, has_products


@pytest.mark.parametrize("dtype", SHORT)
def test_half_precision_is_as_torch_says(dtype):
    name = f"_is_mkldnn_{SHORT[dtype]}_supported"
    assert has_products(dtype) == getattr(torch.ops.mkldnn, name)()


def test_every_processor_multiplies_float32():
    assert has_products(torch.float32)
