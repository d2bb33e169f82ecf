"""Every method of PEFT that takes a rank: is it at hand, and does it train, reload and merge?

python benchmarks/peft_methods.py  # writes docs/adapters/peft_methods.md

Each is attached to the tiny model, trained for one step, saved, loaded and merged, by the functions
that a run uses.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import peft
import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftModel, PromptLearningConfig

from toplora_train.adapters.attach import adapter_names, attach_adapter
from toplora_train.adapters.configs import AdapterConfig
from toplora_train.adapters.peft import UNSUPPORTED
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.models.tiny import tiny_model

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adapters" / "peft_methods.md"
TARGETS, RANK = ["q_proj", "v_proj"], 4
BESIDES = {"OFT": {"oft_block_size": 0}, "VBLORA": {"vector_length": 16}}
"""Settings that a method needs: OFT takes the rank or the size of its blocks, VB-LoRA's vectors are
too long for the tiny model."""
IDS = torch.arange(2, 16).view(2, 7)


def methods() -> dict[str, str]:
    """The methods with a rank, and the setting's name."""
    found = {}
    for name, config in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items()):
        if issubclass(config, PromptLearningConfig | AdapterConfig):
            continue
        keys = [entry.name for entry in fields(config) if entry.name in ("r", "rank")]
        if keys:
            found[str(name.value)] = keys[0]
    return found


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    """Of the same rows, by a model in evaluation."""
    return model.eval()(input_ids=IDS).logits


def attached(name: str, key: str) -> PeftModel:
    """A tiny model with the method at rank 4."""
    settings = {key: RANK, "target_modules": TARGETS, **BESIDES.get(name, {})}
    chosen = {"name": "peft", "peft_type": name, "settings": settings, "dtype": "float32"}
    return attach_adapter(tiny_model(), chosen, seed=1)


def reloaded(model: PeftModel) -> str:
    """The largest difference of the logits after one step and saving and loading."""
    start = logits(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    model.train()(input_ids=IDS, labels=IDS).loss.backward()
    torch.optim.AdamW(trained, lr=1e-2).step()
    expected = logits(model)
    if torch.equal(expected, start):
        raise ValueError("a step changes nothing")
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, Path(folder))
        loaded = load_adapter(tiny_model(), Path(folder))
    return f"{float((logits(loaded) - expected).abs().max()):.2g}"


def merged(model: PeftModel) -> str:
    """Whether the merged model computes the same, to 1e-4."""
    expected = logits(model)
    found = logits(model.merge_and_unload())
    return "yes" if float((found - expected).abs().max()) < 1e-4 else "to another function"


def tried(what: Callable[[PeftModel], str], model: PeftModel) -> tuple[str, str]:
    """The result in a word, and the reason where there is none."""
    try:
        return what(model), ""
    except Exception as error:  # the methods are not ours: whatever they raise is what is reported
        return "no", " ".join(str(error).split()) or type(error).__name__


def line(name: str, key: str) -> tuple[list[str], str]:
    """The method's row of the table, or its reason."""
    if name in UNSUPPORTED:
        return [], UNSUPPORTED[name]
    try:
        model = attached(name, key)
    except Exception as error:  # as above
        return [], " ".join(str(error).split())
    parameters = model.get_nb_trainable_parameters()[0]
    settings = ", ".join(f"`{k}={v}`" for k, v in {key: RANK, **BESIDES.get(name, {})}.items())
    difference, why = tried(reloaded, model)
    if why:
        return [], why
    own = (
        f"[`adapter={name.lower()}`]({name.lower()}.md)" if name.lower() in adapter_names() else ""
    )
    merges, why = tried(merged, model)
    return [f"`{name}`", own, settings, f"{parameters:,}", difference, merges], why


def page() -> str:
    """The page."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lines = {name: line(name, key) for name, key in methods().items()}
    head = ["method", "own name", "settings", "trained", "reload difference", "merges"]
    rows = [head, ["---"] * len(head), *(row for row, _ in lines.values() if row)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    refused = "\n".join(f"- `{name}`: {why}" for name, (row, why) in lines.items() if not row)
    unmerged = "\n".join(f"- `{name}`: {why}" for name, (row, why) in lines.items() if row and why)
    return f"""# Every method of PEFT that takes a rank

PEFT {peft.__version__}; written by `python benchmarks/peft_methods.py`.

```
toplora-train adapter=peft adapter.peft_type=LOKR adapter.settings.r=4
```

Each was attached to the query and value projections of the tiny model at rank {RANK}, otherwise
with PEFT's defaults, trained for a step, saved, loaded and merged. The table has the number of
trained parameters and the largest difference of the logits after loading.

{table}

Not merged:

{unmerged or "none"}

Not at hand:

{refused or "none"}
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
