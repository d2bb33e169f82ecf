"""The contract of every adapter; each YAML in conf/adapter is a test parameter."""

from pathlib import Path

import pytest
from peft import PeftModel

from toplora_train.adapters.attach import adapter_names
from toplora_train.adapters.describe import describe_adapter
from toplora_train.contract.checks import CHECKS
from toplora_train.contract.subject import Subject

CONF = Path(__file__).resolve().parents[2] / "conf" / "adapter"
# Computed by PEFT, whose own tests cover them, or of runs: see the tests of their names.
OTHER_METHODS = ("alora", "fusion", "gralora", "peft", "unilora")
ADAPTERS = sorted({path.stem for path in CONF.glob("*.yaml")} - {*OTHER_METHODS})


def subject(name: str) -> Subject:
    return Subject(
        name,
        CONF / f"{name}.yaml",
        mixes=name != "dora",  # PEFT does not support it
        for_fused={"construction": "depth"} if name == "tenslora" else {},
    )


def defaults(name: str, **changes) -> dict:
    return subject(name).settings(**changes)


def attached(name: str, seed: int = 1, **changes) -> PeftModel:
    return subject(name).attached(seed=seed, **changes)


def test_every_yaml_has_a_module_and_every_module_a_yaml():
    assert sorted(adapter_names()) == sorted([*ADAPTERS, *OTHER_METHODS])


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("claim", CHECKS)
def test_every_adapter(name: str, claim: str):
    CHECKS[claim](subject(name))


def test_only_toplora_does_not_merge_and_names_what_does():
    unmergeable = {name for name in ADAPTERS if not describe_adapter(attached(name))["mergeable"]}
    assert unmergeable == {"toplora"}
    with pytest.raises(NotImplementedError, match=r"cannot be merged: .* adapter=lora"):
        attached("toplora").merge_adapter()
