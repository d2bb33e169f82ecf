"""The garbage collector rests inside, and afterwards is as it was."""

import gc

import pytest

from toplora_train.config.garbage import without_collection


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_inside_and_skips_what_was_made_there(enabled):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with without_collection():
            assert not gc.isenabled()
            made = [object()]
        assert gc.isenabled() is enabled
        assert not any(one is made for one in gc.get_objects())
    finally:
        (gc.enable if before else gc.disable)()
