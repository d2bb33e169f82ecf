"""adapter=peft accepts any settings in the configuration; the method validates them."""

import pytest


@pytest.mark.parametrize("word", ["adapter.settings.r=64", "adapter.settings={r: 64}"])
def test_a_setting_needs_no_plus(composed, word):
    adapter = composed("adapter=peft", "adapter.peft_type=VERA", word)["adapter"]
    assert adapter["settings"] == {"r": 64}
    assert adapter["peft_type"] == "VERA"


def test_an_option_of_the_users_builds_on_it(composed, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "vera.yaml").write_text(
        "# mine\ndefaults: [peft]\npeft_type: VERA\nsettings:\n  r: 32\n"
    )
    adapter = composed(
        "--config-dir", str(tmp_path), "adapter=vera", "adapter.settings.d_initial=0.2"
    )["adapter"]
    assert adapter["settings"] == {"r": 32, "d_initial": 0.2}


def test_no_other_key_of_the_adapter_is_free(refused):
    assert refused("adapter=peft", "adapter.peft_typ=VERA") == (
        "unknown key 'adapter.peft_typ'; did you mean 'adapter.peft_type'?"
    )
    assert refused("adapter=lora", "adapter.settings.r=4").startswith(
        "unknown key 'adapter.settings.r'"
    )


def test_the_node_that_frees_them_is_no_option(refused):
    assert "free_settings" not in refused("adapter=nope")
