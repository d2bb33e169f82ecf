"""The contract of an adapter: :data:`CHECKS`, each a claim and a function that raises if it fails.

Failures are ``AssertionError``, or whatever the adapter itself raises.
"""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from toplora_train.adapters.attach import NOT_THE_METHODS
from toplora_train.adapters.base import adapter_prefixes
from toplora_train.adapters.describe import describe_adapter, trainable_parameters_by_module
from toplora_train.adapters.saving import WEIGHTS_FILE, load_adapter, save_adapter
from toplora_train.config.errors import UserError
from toplora_train.contract.subject import (
    ARCHITECTURES,
    Subject,
    logits,
    no_network,
    refused,
    require,
    require_same,
    shaken,
    tensors,
    token_ids,
)
from toplora_train.models.activation import checkpoint_activations
from toplora_train.models.tiny import tiny_config, tiny_model

Check = Callable[[Subject], None]

CHECKS: dict[str, Check] = {}
"""The checks by their claims."""

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
close = torch.testing.assert_close


def check(claim: str, *, cases: Sequence[str] = ()) -> Callable[[Any], Any]:
    """Add a function to the contract, once for each case (its second argument)."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for case in cases:
            CHECKS[f"{claim}: {case}"] = partial(function, case=case)
        if not cases:
            CHECKS[claim] = function
        return function

    return add


@check("its YAML starts with a description, names the adapter and comments every key")
def _(subject: Subject) -> None:
    first, *rest = subject.file.read_text(encoding="utf-8").splitlines()
    require(first.startswith("# "), f"{subject.file.name} does not begin with a comment")
    require(rest[0] == f"name: {subject.name}", f"its second line is not 'name: {subject.name}'")
    bare = [line for line in rest[1:] if "#" not in line]
    require(not bare, f"{bare[:1]} has no comment")


@check("its YAML has every setting, and an unknown one is refused")
def _(subject: Subject) -> None:
    settings = subject.settings()
    with refused(UserError, r"^adapter\.rnak is not a setting"):
        subject.attached(rnak=4)
    try:
        subject.attached(rnak=4)
    except UserError as error:
        offered = str(error).rpartition("it has ")[2].split(", ")
    own = sorted(set(settings) - {*NOT_THE_METHODS})
    require(sorted(offered) == own, f"the YAML has {own}, the method {sorted(offered)}")


@check("the model starts as the base model")
def _(subject: Subject) -> None:
    close(logits(subject.attached()), logits(tiny_model()))


@check("only its tensors are trained, and all of them get a gradient")
def _(subject: Subject) -> None:
    model = shaken(subject.attached()).train()
    model(input_ids=token_ids(), labels=token_ids()).loss.backward()
    prefixes = adapter_prefixes(model)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    require(bool(trained), "nothing is trained")
    for name, parameter in trained.items():
        own = any(part.startswith(prefixes) for part in name.split("."))
        require(own, f"{name} is trained, but its name does not begin with {prefixes[0]}")
        gradient = parameter.grad
        require(gradient is not None and bool(gradient.abs().sum() > 0), f"{name} has no gradient")


@check("all parameter counts agree, on the meta device too")
def _(subject: Subject) -> None:
    model = subject.attached()
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with torch.device("meta"):
        empty: Any = LlamaForCausalLM(tiny_config())
    on_meta = subject.attached(empty).get_nb_trainable_parameters()
    counts = {
        "PEFT": model.get_nb_trainable_parameters()[0],
        "the report": describe_adapter(model)["trainable_parameters"],
        "by module": sum(trainable_parameters_by_module(model).values()),
        "on the meta device": on_meta[0],
    }
    wrong = {who: count for who, count in counts.items() if count != trainable}
    require(not wrong, f"{trainable} parameters are trainable, but {wrong}")
    require(all(p.is_meta for p in empty.parameters()), "a tensor is not on the meta device")


@check("its initialization depends on the seed alone")
def _(subject: Subject) -> None:
    torch.manual_seed(1)
    first = tensors(subject.attached(seed=7))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second, other = tensors(subject.attached(seed=7)), tensors(subject.attached(seed=8))
    require_same(torch.get_rng_state(), before, "the global random states")
    for name, tensor in first.items():
        require_same(tensor, second[name], f"with one seed, two initial {name}")
    drawn = [name for name, tensor in first.items() if tensor.min() < tensor.max()]
    changed = any(not torch.equal(first[name], other[name]) for name in drawn)
    require(changed or not drawn, "another seed gives the same values")


@check("a saved adapter loads to the same logits, also by PEFT, without a network")
def _(subject: Subject) -> None:
    model = shaken(subject.attached())
    with tempfile.TemporaryDirectory() as folder:
        with no_network():
            save_adapter(model, Path(folder))
        expected = logits(model)
        loaded = load_adapter(tiny_model(), Path(folder))
        by_peft = PeftModel.from_pretrained(tiny_model(), folder)
        lean = PeftModel.from_pretrained(tiny_model(), folder, low_cpu_mem_usage=True)
    require_same(logits(loaded), expected, "the logits before and after loading")
    require(not any(p.requires_grad for p in loaded.parameters()), "a loaded tensor is trainable")
    require(describe_adapter(loaded) == describe_adapter(model), "it is described differently")
    require_same(logits(by_peft), expected, "the logits before and after loading by PEFT")
    close(logits(lean), expected)  # its tensors may be aligned differently, which affects rounding
    read, written = tensors(lean), tensors(model)
    for name in written:
        require_same(read[name], written[name], f"saved and loaded {name}")


@check("a loaded adapter can be trained further")
def _(subject: Subject) -> None:
    model = shaken(subject.attached())
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, Path(folder))
        loaded = load_adapter(tiny_model(), Path(folder), trainable=True)
    before, now = (trainable_parameters_by_module(one) for one in (model, loaded))
    require(now == before, f"trainable parameters were {before}, now {now}")


@check(
    "a file that does not fit is refused with the tensor's name",
    cases=("missing", "unexpected", "wrong shape"),
)
def _(subject: Subject, case: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_adapter(shaken(subject.attached()), folder)
        whole = load_file(folder / WEIGHTS_FILE)
        of_each_kind = {key.rpartition("_proj.")[2]: key for key in whole}
        for key in of_each_kind.values():
            damaged = dict(whole)
            tensor = damaged.pop(key)
            if case == "unexpected":
                damaged |= {key: tensor, f"{key}_2": tensor.clone()}
            elif case == "wrong shape":
                damaged[key] = torch.cat([tensor, tensor])
            save_file(damaged, folder / WEIGHTS_FILE)
            with refused(UserError, f"does not fit .* {case}: {key}"):
                load_adapter(tiny_model(), folder)


@check("disabled, it is the base model")
def _(subject: Subject) -> None:
    model = shaken(subject.attached())
    with model.disable_adapter():
        disabled = logits(model)
    require_same(disabled, logits(tiny_model()), "the base model's logits and the disabled ones")
    require(not torch.allclose(logits(model), disabled), "it does not change the model's logits")


@check("two adapters are switched and deleted")
def _(subject: Subject) -> None:
    model = shaken(subject.attached(), seed=1)
    first = logits(model)
    model.add_adapter("second", copy.deepcopy(model.peft_config["default"]))
    require_same(logits(model), first, "the logits before and after adding another adapter")
    model.set_adapter("second")
    shaken(model, seed=2)
    second = logits(model)
    require(not torch.allclose(second, first), "both adapters give the same logits")
    model.set_adapter("default")
    require_same(logits(model), first, "the logits before and after switching away")
    model.set_adapter("second")
    model.delete_adapter("default")
    require_same(logits(model), second, "the logits before and after deleting the other adapter")
    names = [*model.state_dict(), *(name for name, _ in model.named_modules())]
    left = [name for name in names if "default" in name.split(".")]
    require(not left, f"{left[:1]} is left of a deleted adapter")


@check("a batch may mix adapters")
def _(subject: Subject) -> None:
    model = shaken(subject.attached(), seed=1)
    model.add_adapter("second", copy.deepcopy(model.peft_config["default"]))
    model.set_adapter("second")
    shaken(model, seed=2)
    ids, mixed = token_ids(4), ["second", "__base__", "default", "second"]
    if not subject.mixes:
        with refused(ValueError, "."):
            logits(model, input_ids=ids, adapter_names=mixed)
        return
    together = logits(model, input_ids=ids, adapter_names=mixed)
    for row, adapter in enumerate(mixed):
        if adapter == "__base__":
            with model.disable_adapter():
                alone = logits(model, input_ids=ids[row : row + 1])
        else:
            model.set_adapter(adapter)
            alone = logits(model, input_ids=ids[row : row + 1])
        close(together[row : row + 1], alone)
    with refused(ValueError, "third"):
        logits(model, input_ids=ids, adapter_names=["third"] * 4)


@check("modules_to_save are trained, saved and loaded")
def _(subject: Subject) -> None:
    model = subject.attached(modules_to_save=["lm_head"])
    trained = trainable_parameters_by_module(model).get("lm_head")
    require(trained == 258 * 64, f"of lm_head's {258 * 64} parameters, {trained} are trainable")
    shaken(model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_adapter(model, folder)
        require_same(logits(load_adapter(tiny_model(), folder)), logits(model), "loaded logits")
        saved = load_file(folder / WEIGHTS_FILE)
        del saved["base_model.model.lm_head.weight"]
        save_file(saved, folder / WEIGHTS_FILE)
        with refused(UserError, r"base_model\.model\.lm_head\.weight is missing"):
            load_adapter(tiny_model(), folder)


@check("merging gives the same logits, or is refused with a reason")
def _(subject: Subject) -> None:
    model = shaken(subject.attached())
    expected = logits(model)
    if not describe_adapter(model)["mergeable"]:
        for merge in (model.merge_and_unload, model.merge_adapter):
            with refused(UserError, "merge"):
                merge()
        require_same(logits(model), expected, "the logits before and after a refused merge")
        return
    near = partial(close, atol=1e-4, rtol=1e-4)
    model.merge_adapter()
    near(logits(model), expected)
    model.unmerge_adapter()
    near(logits(model), expected)
    merged = model.merge_and_unload()
    require(type(merged) is LlamaForCausalLM, f"the merged model is a {type(merged).__name__}")
    near(logits(merged), expected)


@check("unloading restores the base model")
def _(subject: Subject) -> None:
    base = shaken(subject.attached()).unload()
    require(type(base) is LlamaForCausalLM, f"the unloaded model is a {type(base).__name__}")
    require_same(logits(base), logits(tiny_model()), "the base model's logits and the unloaded")


@check(
    "adapter.dtype is the dtype of its tensors, and is saved",
    cases=[f"{dtype} on {half}" for half in HALVES for dtype in ("float32", "half", "auto")],
)
def _(subject: Subject, case: str) -> None:
    dtype, _, base = case.partition(" on ")
    half = HALVES[base]
    chosen = str(half).removeprefix("torch.") if dtype == "half" else dtype
    expected = torch.float32 if dtype == "float32" else half
    model = subject.attached(tiny_model().to(half), dtype=chosen)
    found = {p.dtype for p in model.parameters() if p.requires_grad}
    require(found == {expected}, f"its tensors are {found}, not {expected}")
    shaken(model)
    require(logits(model).dtype == half, f"the model's output is {logits(model).dtype}, not {half}")
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, Path(folder))
        loaded = load_adapter(tiny_model().to(half), Path(folder))
    require_same(logits(loaded), logits(model), "the logits before and after loading")
    own = adapter_prefixes(loaded)
    found = {
        parameter.dtype
        for name, parameter in loaded.named_parameters()
        if any(part.startswith(own) for part in name.split("."))
    }
    require(found == {expected}, f"its loaded tensors are {found}, not {expected}")


@check("activation checkpointing changes no gradient")
def _(subject: Subject) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = shaken(subject.attached()).train()
        if checkpointing:
            checkpoint_activations(model.get_base_model())
        model(input_ids=token_ids(), labels=token_ids()).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for key, gradient in gradients[0].items():
        close(gradients[1][key], gradient)


@check("cached generation agrees with the logits")
def _(subject: Subject) -> None:
    model = shaken(subject.attached())
    ids = token_ids(rows=2, length=5)
    mask = torch.ones_like(ids)
    generated = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None
    )
    expected = ids
    for _ in range(4):
        following = logits(model, input_ids=expected)[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat([expected, following], dim=1)
    require_same(generated, expected, "generated tokens and those of the largest logits")


@check("it can be copied and pickled")
def _(subject: Subject) -> None:
    model = shaken(subject.attached())
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        require_same(logits(other), logits(model), "the logits of a copy")


@check("PEFT reports its status")
def _(subject: Subject) -> None:
    status = shaken(subject.attached()).get_model_status()
    kind = describe_adapter(subject.attached())["peft_type"]
    require(status.peft_types == {"default": kind}, f"PEFT reports {status.peft_types}")
    for active in (status.active_adapters, status.available_adapters):
        require(active == ["default"], f"PEFT reports the adapters {active}")
    require(status.enabled is True and not status.merged_adapters, f"PEFT reports {status}")


@check("it fits other architectures", cases=tuple(ARCHITECTURES))
def _(subject: Subject, case: str) -> None:
    make, adapted = ARCHITECTURES[case]
    changes = subject.for_fused if case == "transposed" else {}
    model = shaken(subject.attached(make(), **changes))
    targeted = {name.rpartition(".")[2] for name in model.base_model.targeted_module_names}
    missed = adapted - (targeted | set(trainable_parameters_by_module(model)))
    require(not missed, f"{sorted(missed)} is not adapted")
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, Path(folder))
        loaded = load_adapter(make(), Path(folder))
    require_same(logits(loaded), logits(model), "the logits before and after loading")
