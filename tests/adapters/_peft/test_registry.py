"""Registration: new members of the enumeration, and names already taken."""

import copy
import pickle

import pytest
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from toplora_train.adapters._peft.registry import adapter_prefixes, register_method
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.toplora import TopLoraConfig, TopLoraModel
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model


def test_a_new_member_behaves_like_the_built_in_ones():
    member = PeftType.TOPLORA
    assert member is PeftType("TOPLORA") is PeftType["TOPLORA"]
    assert member == "TOPLORA"
    assert hash(member) == hash("TOPLORA")
    assert member in list(PeftType)
    assert "TOPLORA" in PeftType.__members__
    assert (member.name, member.value) == ("TOPLORA", "TOPLORA")
    assert repr(member) == "<PeftType.TOPLORA: 'TOPLORA'>"
    assert pickle.loads(pickle.dumps(member)) is member
    assert copy.copy(member) is copy.deepcopy(member) is member
    with pytest.raises(AttributeError):
        PeftType.TOPLORA = "other"


def test_registering_twice_changes_nothing():
    before = list(PeftType)
    register_method("toplora", TopLoraConfig, TopLoraModel)
    assert list(PeftType) == before


class OtherConfig(TopLoraConfig):
    """Of another method than TopLoRA."""


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("vera", r"the name VERA is taken by peft\.tuners\.vera\.config\.VeraConfig"),
        ("toplora", r"the name TOPLORA is taken by toplora_train\.\S+\.TopLoraConfig"),
        ("hada", r"the tensor prefix 'hada_' is taken by another method of PEFT [\d.]+"),  # LoHa's
    ],
)
def test_a_name_or_prefix_that_is_taken_is_one_clear_error_and_changes_nothing(name, taken):
    members, configs = list(PeftType), dict(PEFT_TYPE_TO_CONFIG_MAPPING)
    with pytest.raises(UserError, match=rf"OtherConfig cannot be .* '{name}': {taken}; choose"):
        register_method(name, OtherConfig, TopLoraModel)
    assert list(PeftType) == members
    assert configs == PEFT_TYPE_TO_CONFIG_MAPPING


def test_a_member_of_pefts_enumeration_without_a_method_is_taken_too(monkeypatch):
    monkeypatch.delitem(PEFT_TYPE_TO_CONFIG_MAPPING, PeftType.VERA)
    with pytest.raises(UserError, match=r"the name VERA is taken by PEFT \d"):
        register_method("vera", OtherConfig, TopLoraModel)


@pytest.mark.parametrize(("name", "prefix"), [("toplora", "toplora_"), ("dora", "lora_")])
def test_the_prefixes_of_a_models_adapter_tensors(name, prefix):
    settings = {"name": name, "target_modules": ["q_proj"]}
    assert adapter_prefixes(attach_adapter(tiny_model(), settings, seed=1)) == (prefix,)
