import pytest

from toplora_train.config.errors import UserError
from toplora_train.models.devices import DEVICES, find_device


def test_a_device_has_the_peaks_of_its_data_sheet():
    device = find_device("a100-80g")
    assert device.speed("bfloat16") == 312e12
    assert device.speed("float32") == 19.5e12
    assert device.memory_bytes == 80e9


def test_half_precision_is_never_slower_than_single_and_keys_are_the_devices_names():
    for name, device in DEVICES.items():
        assert device.name == name
        assert device.speed("float16") > device.speed("float32")
        assert device.bf16 is None or device.bf16 == device.fp16


def test_an_unknown_device_is_one_line_with_the_known_names():
    with pytest.raises(UserError, match=r"plan_for=h900: no such device.*a100-80g.*l40s"):
        find_device("h900")


def test_an_unsupported_dtype_is_refused_with_a_supported_one():
    with pytest.raises(UserError, match=r"v100-32g.*bfloat16.*mixed_precision=fp16"):
        find_device("v100-32g").speed("bfloat16")
