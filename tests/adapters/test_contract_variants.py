"""The contract for every setting that changes the equation, on several architectures."""

import copy
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tests.adapters.test_contract import ADAPTERS, defaults
from tests.adapters.variants import (
    MODELS,
    VARIANTS,
    closed_formula,
    converts,
    labels,
    settled,
)
from toplora_train.adapters import toplora
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.base import AdapterLinear, adapter_prefixes
from toplora_train.adapters.describe import count_adapter_parameters, describe_adapter
from toplora_train.adapters.export import save_as_lora
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.config.errors import UserError
from toplora_train.contract.subject import shaken, tensors, token_ids
from toplora_train.models.load import load_model
from toplora_train.models.locate import ModelLocation

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
EVERYWHERE = [*ADAPTERS, "toplora-ungated", "tenslora-att_qkv_depth_tucker", "tenslora-att_cp"]
CASES = [(variant, "llama") for variant in VARIANTS] + [
    (variant, kind) for kind in ("bert", "gemma") for variant in EVERYWHERE
]


def slow_if_alike(variant: str, kind: str) -> list[pytest.MarkDecorator]:
    """Adapters that add no machinery of their own are tested on one model by default."""
    alike = variant in ("orthogonal", "sbora") and kind != "llama"
    return [pytest.mark.slow] if alike else []


every_case = pytest.mark.parametrize(
    ("variant", "kind"),
    [pytest.param(*c, id="-on-".join(c), marks=slow_if_alike(*c)) for c in CASES],
)


def a_third_of_the_cases(first: int) -> pytest.MarkDecorator:
    """Every third case by default; the others are slow tests."""
    marks = [
        slow_if_alike(*case) if number % 3 == first else pytest.mark.slow
        for number, case in enumerate(CASES)
    ]
    return pytest.mark.parametrize(
        ("variant", "kind"),
        [
            pytest.param(*case, id="-on-".join(case), marks=mark)
            for case, mark in zip(CASES, marks, strict=True)
        ],
    )


every_adapter = pytest.mark.parametrize("variant", ADAPTERS)


def settings_of(variant: str, kind: str) -> dict:
    name, changes = VARIANTS.get(variant, (variant, {}))
    changes = settled(changes, kind)
    plain = defaults(name)
    if "gate" in changes:
        changes = {**changes, "gate": {**plain["gate"], **changes["gate"]}}
    return {**plain, **changes}


def on(kind: str, variant: str) -> PeftModel:
    return attach_adapter(MODELS[kind](), settings_of(variant, kind), seed=1)


@torch.no_grad()
def logits(model: torch.nn.Module, ids: torch.Tensor | None = None) -> torch.Tensor:
    return model.eval()(input_ids=token_ids() if ids is None else ids).logits


def gradients(model: PeftModel, kind: str) -> dict[str, torch.Tensor | None]:
    ids = token_ids()
    model.zero_grad()
    model.train()(input_ids=ids, labels=labels(kind, ids)).loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def test_every_yaml_has_variants():
    assert {name for name, _ in VARIANTS.values()} == set(ADAPTERS)


@a_third_of_the_cases(0)
def test_it_starts_as_the_base_model(variant: str, kind: str):
    torch.testing.assert_close(logits(on(kind, variant)), logits(MODELS[kind]()), **TOLERANCE)


@every_case
def test_only_its_tensors_are_trained_and_all_of_them_get_a_gradient(variant: str, kind: str):
    model = shaken(on(kind, variant))
    own = (*adapter_prefixes(model), "modules_to_save")
    found = gradients(model, kind)
    assert found
    for name, gradient in found.items():
        assert any(part.startswith(own) for part in name.split("."))
        assert gradient is not None and gradient.abs().sum() > 0, name


@every_case
def test_its_parameter_count_is_the_closed_formulas(variant: str, kind: str):
    settings = settings_of(variant, kind)
    model = on(kind, variant)
    assert count_adapter_parameters(model) == closed_formula(settings["name"], settings, kind)


@a_third_of_the_cases(1)
def test_saving_and_loading_change_no_bit(variant: str, kind: str, tmp_path: Path):
    model = shaken(on(kind, variant))
    save_adapter(model, tmp_path)
    loaded = load_adapter(MODELS[kind](), tmp_path)
    if variant == "dora-factored_norm":  # loaded as PEFT's DoRA, whose norm rounds differently
        torch.testing.assert_close(logits(loaded), logits(model), **TOLERANCE)
    else:
        assert torch.equal(logits(loaded), logits(model))
    written, read = load_file(tmp_path / "adapter_model.safetensors"), tensors(loaded)
    assert written.keys() == tensors(model).keys()
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in written)


@every_case
def test_merged_and_converted_it_computes_the_same_or_is_refused(
    variant: str, kind: str, tmp_path: Path
):
    model = shaken(on(kind, variant))
    expected = logits(model)
    bound = {"atol": 1e-5 * float(expected.abs().max()), "rtol": 1e-4}
    if not describe_adapter(model)["mergeable"]:
        for refused in (model.merge_adapter, model.merge_and_unload, lambda: convert(model)):
            with pytest.raises(UserError, match=r"adapter\.gate\.enabled=false"):
                refused()
        assert torch.equal(logits(model), expected)
        return
    if converts(model):
        save_as_lora(model, tmp_path)
        plain = PeftModel.from_pretrained(MODELS[kind](), str(tmp_path))
        torch.testing.assert_close(logits(plain), expected, **bound)
    model.merge_adapter()
    torch.testing.assert_close(logits(model), expected, **bound)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), expected, **bound)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, **bound)


def convert(model: PeftModel) -> None:
    save_as_lora(model, Path("never written"))


@a_third_of_the_cases(2)
def test_autocast_and_half_precision_stay_close(variant: str, kind: str):
    model = shaken(on(kind, variant), size=1 / 32)
    expected = logits(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert near(logits(model), expected)
        assert all(g.isfinite().all() for g in gradients(model, kind).values())
    assert near(logits(copy.deepcopy(model).half()), expected)
    assert near(logits(model.bfloat16()), expected)


def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found.float() - expected).norm() <= 5e-2 * expected.norm())


@pytest.mark.parametrize(
    ("variant", "kind"),
    [
        pytest.param(variant, kind, marks=slow_if_alike(variant, kind))
        for variant in ADAPTERS
        for kind in MODELS
    ],
)
class TestOnEveryModel:
    def test_switched_renamed_disabled_and_deleted_it_is_itself(
        self, variant: str, kind: str, tmp_path: Path
    ):
        model = shaken(on(kind, variant), seed=1)
        save_adapter(model, tmp_path)
        first = logits(model)
        model.load_adapter(str(tmp_path), adapter_name="again")
        model.set_adapter("again")
        assert torch.equal(logits(model), first)
        model.delete_adapter("default")
        assert torch.equal(logits(model), first)
        if kind != "bert":  # disabling also restores its trained classifier
            with model.disable_adapter():
                assert torch.equal(logits(model), logits(MODELS[kind]()))

    def test_a_copy_is_complete_and_independent(self, variant: str, kind: str):
        model = shaken(on(kind, variant))
        expected = logits(model)
        other = copy.deepcopy(model)
        shaken(other, seed=3)
        assert torch.equal(logits(model), expected)
        assert not torch.allclose(logits(other), expected)

    def test_low_memory_loading_fills_every_tensor(self, variant: str, kind: str, tmp_path: Path):
        model = shaken(on(kind, variant))
        save_adapter(model, tmp_path)
        loaded = PeftModel.from_pretrained(MODELS[kind](), str(tmp_path), low_cpu_mem_usage=True)
        torch.testing.assert_close(logits(loaded), logits(model), **TOLERANCE)

    def test_activation_checkpointing_changes_no_gradient(self, variant: str, kind: str):
        found = []
        for checkpointing in (False, True):
            model = shaken(on(kind, variant))
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            found.append(gradients(model, kind))
        for name, gradient in found[0].items():
            torch.testing.assert_close(found[1][name], gradient)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
    def test_compiled_it_computes_the_same(self, variant: str, kind: str):
        model = shaken(on(kind, variant))
        expected, expected_gradients = logits(model), gradients(model, kind)
        torch._dynamo.reset()
        compiled = torch.compile(model.eval(), backend="aot_eager")
        with torch.no_grad():
            torch.testing.assert_close(compiled(input_ids=token_ids()).logits, expected)
        ids = token_ids()
        model.zero_grad()
        compiled = torch.compile(model.train(), backend="aot_eager")
        compiled(input_ids=ids, labels=labels(kind, ids)).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(parameter.grad, expected_gradients[name])


@every_adapter
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["llama"])
def test_on_a_quantised_base_it_trains_and_reloads(
    variant: str, kind: str, bits: int, tmp_path: Path
):
    base = quantised(kind, bits, tmp_path)
    start = logits(base)
    if variant in ("dora", "orthogonal") and bits == 8:  # bitsandbytes does not read the weight
        with pytest.raises(UserError, match=rf"adapter={variant}: .* is an 8-bit layer on the CPU"):
            attach_adapter(base, settings_of(variant, kind), seed=1)
        return
    model = attach_adapter(base, settings_of(variant, kind), seed=1)
    torch.testing.assert_close(logits(model), start, atol=1e-3, rtol=1e-3)
    found = gradients(shaken(model), kind)
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in found.values())
    save_adapter(model, tmp_path / "adapter")
    again = load_adapter(quantised(kind, bits, tmp_path), tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model))


def quantised(kind: str, bits: int, tmp_path: Path) -> torch.nn.Module:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    folder = tmp_path / "base"
    if not folder.is_dir():
        MODELS[kind]().save_pretrained(folder)
    return load_model(
        ModelLocation(str(folder), folder, "local"), dtype="float32", quantization=f"{bits}bit"
    )


# -- the suite itself ------------------------------------------------------------------------------


def test_an_adapter_with_a_wrong_scale_fails_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        toplora.TopLoraLinear,
        "lora_factors",
        lambda self, name: (self.toplora_A[name], self.toplora_B[name]),
    )
    with pytest.raises(AssertionError, match="not close"):
        test_merged_and_converted_it_computes_the_same_or_is_refused(
            "toplora-ungated", "llama", tmp_path
        )


def test_an_adapter_that_drops_a_key_fails_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save = save_adapter

    def save_all_but_one(model: PeftModel, folder: Path) -> None:
        save(model, folder)
        file = folder / "adapter_model.safetensors"
        kept = load_file(file)
        kept.pop(max(kept))
        save_file(kept, file)

    monkeypatch.setattr(f"{__name__}.save_adapter", save_all_but_one)
    with pytest.raises(UserError, match="missing"):
        test_saving_and_loading_change_no_bit("genlora", "llama", tmp_path)


def test_an_adapter_with_a_non_zero_start_fails_the_suite(monkeypatch: pytest.MonkeyPatch):
    forward = AdapterLinear.forward
    monkeypatch.setattr(
        AdapterLinear, "forward", lambda self, x, *args, **kw: forward(self, x, *args, **kw) + 1e-3
    )
    with pytest.raises(AssertionError, match="not close"):
        test_it_starts_as_the_base_model("tenslora", "llama")


def test_an_adapter_with_an_unused_tensor_fails_the_suite(monkeypatch: pytest.MonkeyPatch):
    low_rank = toplora.TopLoraLinear.low_rank
    monkeypatch.setattr(
        toplora.TopLoraLinear, "low_rank", lambda *args: low_rank(*args)._replace(gate=None)
    )
    with pytest.raises((AssertionError, RuntimeError)):
        test_only_its_tensors_are_trained_and_all_of_them_get_a_gradient("toplora", "llama")
