"""Each kind of broken adapter fails a check that names what is wrong."""

from pathlib import Path

import pytest
import torch

from toplora_train.adapters import toplora
from toplora_train.contract.checks import CHECKS
from toplora_train.contract.subject import Subject

CONF = Path(__file__).resolve().parents[2] / "conf" / "adapter"
TOPLORA = Subject("toplora", CONF / "toplora.yaml")
INITIAL = toplora.TopLoraLinear.initial_tensors


def fails(claim: str, subject: Subject = TOPLORA) -> str:
    with pytest.raises((AssertionError, Exception)) as failure:
        CHECKS[claim](subject)
    return str(failure.value)


def starting(monkeypatch: pytest.MonkeyPatch, change) -> None:
    def initial(self, config, module_name):
        return {name: change(t) for name, t in INITIAL(self, config, module_name).items()}

    monkeypatch.setattr(toplora.TopLoraLinear, "initial_tensors", initial)


def test_a_start_that_is_not_the_base_model(monkeypatch):
    starting(monkeypatch, lambda tensor: tensor + 0.1)
    assert "not close" in fails("the model starts as the base model")


def test_a_start_that_ignores_the_seed(monkeypatch):
    starting(monkeypatch, lambda t: torch.linspace(0, 1, t.numel()).reshape(t.shape))
    claim = "its initialization depends on the seed alone"
    assert fails(claim) == "another seed gives the same values"


def without_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    low_rank = toplora.TopLoraLinear.low_rank
    monkeypatch.setattr(
        toplora.TopLoraLinear, "low_rank", lambda *args: low_rank(*args)._replace(gate=None)
    )


def test_a_tensor_that_is_not_used(monkeypatch):
    without_gate(monkeypatch)
    message = fails("only its tensors are trained, and all of them get a gradient")
    assert "has no gradient" in message


def test_a_merge_of_another_matrix(monkeypatch):
    layer = toplora.TopLoraLinear
    monkeypatch.setattr(layer, "can_merge", lambda *_: True)
    monkeypatch.setattr(layer, "lora_factors", lambda self, name: self.low_rank(name)[:2])
    assert "not close" in fails("merging gives the same logits, or is refused with a reason")


def test_a_yaml_without_comments_or_settings(tmp_path):
    file = tmp_path / "toplora.yaml"
    file.write_text("# TopLoRA\nname: toplora\nr: 8\n")
    subject = Subject("toplora", file)
    claim = "its YAML starts with a description, names the adapter and comments every key"
    assert fails(claim, subject) == "['r: 8'] has no comment"
    claim = "its YAML has every setting, and an unknown one is refused"
    assert "the YAML has ['r'], the method ['alpha'" in fails(claim, subject)
