"""Every adapter in every form that changes its mathematics, through the command itself."""

import json
from pathlib import Path

import pytest

from tests.adapters.test_peft import METHODS
from tests.test_commands import toplora_train
from toplora_train.adapters import genlora, lora, tenslora, toplora
from toplora_train.adapters.attach import adapter_names
from toplora_train.adapters.peft import peft_methods

pytestmark = pytest.mark.slow

FORMS = {
    **{name: [] for name in adapter_names() if name not in ("peft", "fusion")},
    **{
        f"tenslora-{construction}-{factorization}": [
            "adapter=tenslora",
            f"adapter.construction={construction}",
            f"adapter.factorization={factorization}",
            "adapter.r=4",
        ]
        for construction in tenslora.CONSTRUCTIONS
        for factorization in tenslora.FACTORIZATIONS
    },
    **{
        f"toplora-{key}-{value}": ["adapter=toplora", f"adapter.gate.{key}={value}"]
        for key, values in {
            "activation": toplora.ACTIVATIONS,
            "norm": toplora.NORMS,
            "init": toplora.INITS,
            "eps": ("null", "1e-6", "paper-bf16"),
            "enabled": ("true", "false"),
        }.items()
        for value in values
    },
    **{
        f"{name}-{init}": [f"adapter={name}", f"adapter.init={init}"]
        for name in ("lora", "dora")
        for init in lora.INITS
    },
    **{
        f"genlora-{term}": ["adapter=genlora", f"adapter.base_term={term}"]
        for term in genlora.BASE_TERMS
    },
    **{
        f"peft-{method}": [
            "adapter=peft",
            f"adapter.peft_type={method}",
            *(f"+adapter.settings.{key}={json.dumps(value)}" for key, value in settings.items()),
        ]
        for method, settings in METHODS.items()
        if method in peft_methods()
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_it_trains_and_reloads_to_the_same_logits(form: str, tmp_path: Path):
    words = FORMS[form] or [f"adapter={form}"]
    done = toplora_train(tmp_path, "recipe=smoke", *words, "output_dir=run")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["status"] == "completed"
    assert report["reload"] == {
        "max_abs_logit_difference": 0.0,
        "missing": [],
        "unexpected": [],
        "same": True,
    }
    assert report["adapter"]["trainable_parameters"] > 0
