import pkgutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from tests.train.test_loop import start_training
from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.check import ELEMENTWISE, OPTIMIZERS
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model
from toplora_train.train import optimizer as optimizer_module
from toplora_train.train import optimizers
from toplora_train.train.checkpoint import (
    TrainState,
    adapter_tensors,
    load_checkpoint,
    newest_checkpoint,
    read_state,
    save_checkpoint,
)
from toplora_train.train.optimizer import (
    LORA_PLUS,
    build_optimizer,
    parameter_groups,
    set_learning_rate,
)


def adamw(model: nn.Module, weight_decay: float = 0.1) -> torch.optim.AdamW:
    return build_optimizer(model, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=weight_decay)


def test_only_trainable_parameters_are_updated_and_only_matrices_decay():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    model[0].bias.requires_grad_(False)
    groups = adamw(model).param_groups
    assert [[p.ndim for p in group["params"]] for group in groups] == [[2], [1, 1]]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_float16_is_not_trained_and_the_remedy_is_of_the_tensor():
    settings = adapter_defaults("lora")[0]
    half = attach_adapter(tiny_model().half(), settings | {"dtype": "float16"}, seed=0)
    with pytest.raises(UserError, match=r"lora_A\S+ is float16.*set adapter\.dtype=float32"):
        adamw(half)
    whole = attach_adapter(tiny_model().half(), settings | {"modules_to_save": ["lm_head"]}, seed=0)
    with pytest.raises(UserError, match=r"lm_head\S+ is float16.*set model\.dtype=float32"):
        adamw(whole)
    adamw(attach_adapter(tiny_model().half(), settings, seed=0))


def test_a_model_without_1d_parameters_has_one_group():
    assert len(adamw(nn.Linear(3, 3, bias=False)).param_groups) == 1


def lora(name: str = "lora") -> nn.Module:
    settings = adapter_defaults(name)[0]
    if name == "alora":
        settings["invocation_tokens"] = [11, 12]
    return attach_adapter(tiny_model(), settings, seed=1)


def groups(model: nn.Module, **changes) -> list[dict]:
    return parameter_groups(
        model, **{"weight_decay": 0.1, "lr_multipliers": {}, "no_decay": [], **changes}
    )


def test_the_learning_rate_of_each_group_is_multiplied_by_its_factor():
    optimizer = build_optimizer(
        lora(),
        lr=1e-3,
        betas=(0.9, 0.99),
        eps=1e-8,
        weight_decay=0.1,
        lr_multipliers={"lora_B": 16.0, "k_proj": 0.5},
    )
    set_learning_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5, 8.0, 0.25, 4.0}


def test_every_trainable_parameter_is_in_one_group():
    model = lora()
    made = groups(model, lr_multipliers={"lora_A": 2.0}, no_decay=["v_proj.lora_B"])
    held = [id(p) for group in made for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    names = {id(p): name for name, p in model.named_parameters()}
    for group in made:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr_scale"] == (2.0 if "lora_A" in name else 1.0)
            assert group["weight_decay"] == (0.0 if "v_proj.lora_B" in name else 0.1)


def test_lora_plus_has_the_same_groups_as_pefts():
    model = lora()
    theirs = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0, loraplus_weight_decay=0.0
    )
    fast = {id(p) for g in theirs.param_groups if g["lr"] > 2e-3 for p in g["params"]}
    ours = groups(model, lr_multipliers={LORA_PLUS: 16.0})
    assert {id(p) for g in ours if g["lr_scale"] == 16.0 for p in g["params"]} == fast
    assert fast


def test_lora_plus_works_with_toplora_and_refuses_adapters_without_b():
    assert {g["lr_scale"] for g in groups(lora("toplora"), lr_multipliers={LORA_PLUS: 4.0})} == {
        1.0,
        4.0,
    }
    with pytest.raises(UserError, match=r"loraplus needs .* this one has tenslora_core, tenslora_"):
        groups(lora("tenslora"), lr_multipliers={LORA_PLUS: 4.0})


@pytest.mark.parametrize("key", ["lr_multipliers", "no_decay"])
def test_a_pattern_that_matches_nothing_is_refused_with_the_known_names(key: str):
    with pytest.raises(UserError, match=rf"optimizer.{key}: 'core' matches no .*lora_A"):
        groups(lora(), **{key: {"core": 8.0}})
    with pytest.raises(UserError, match="not a regular expression"):
        groups(lora(), **{key: {"(": 8.0}})


def test_eight_bit_moments_survive_a_checkpoint(tmp_path: Path):
    pytest.importorskip("bitsandbytes", reason="needs the extra quant")

    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = lora()
        optimizer = build_optimizer(
            model,
            name="adamw8bit",
            lr=1e-2,
            betas=(0.9, 0.99),
            eps=1e-8,
            weight_decay=0.1,
        )
        for group in optimizer.param_groups:
            optimizer.args.min_8bit_size = 0
            assert group["lr_scale"] == 1.0
        return model, optimizer

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        ids = torch.randint(2, 258, (2, 8), generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(ids).logits.square().mean().backward()
        optimizer.step()

    accelerator = Accelerator(cpu=True)
    model, optimizer = made()
    for seed in range(2):
        step(model, optimizer, seed)
    saved = save_checkpoint(
        tmp_path,
        model=model,
        optimizer=optimizer,
        accelerator=accelerator,
        state=TrainState(step=2),
        keep=1,
    )
    step(model, optimizer, 2)
    other, other_optimizer = made()
    load_checkpoint(saved, model=other, optimizer=other_optimizer, accelerator=accelerator)
    step(other, other_optimizer, 2)
    dtypes = {v.dtype for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)}
    assert torch.uint8 in dtypes
    for name, tensor in adapter_tensors(model).items():
        assert torch.equal(tensor, adapter_tensors(other)[name]), name


NEED_PAIRS = ("riemannian", "lorafa", "lora_rite", "lora_pro", "lorsum")


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        (name, adapter)
        for name in ("muon", *NEED_PAIRS)
        for adapter in ("lora", "dora")  # DoRA's magnitudes are AdamW's
        if (name, adapter) != ("lorsum", "dora")
    ],
)
def test_a_resumed_run_ends_byte_for_byte_like_an_uninterrupted_one(
    tmp_path: Path, name: str, adapter: str
):
    if name == "lora_rite":
        pytest.importorskip("pytorch_optimizer", reason="the extra `optimizers`")
    settings = {"mode": "full"} if name == "lora_pro" else {}

    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = attach_adapter(tiny_model(), {"name": adapter, "r": 4, "dropout": 0.0}, seed=1)
        made = build_optimizer(
            model, name=name, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, **settings
        )
        return model, made

    whole, optimizer = start()
    list(start_training(whole, optimizer, tmp_path / "whole"))
    cut, optimizer = start()
    list(start_training(cut, optimizer, tmp_path / "cut", total_steps=4))
    found = newest_checkpoint(tmp_path / "cut")
    assert found is not None
    resumed, optimizer = start()
    optimizer = Accelerator(cpu=True).prepare(optimizer)
    load_checkpoint(found, model=resumed, optimizer=optimizer, accelerator=Accelerator(cpu=True))
    list(start_training(resumed, optimizer, tmp_path / "cut", start=read_state(found)))
    for key, tensor in adapter_tensors(whole).items():
        assert torch.equal(tensor, adapter_tensors(resumed)[key]), key


def test_every_optimizer_of_the_package_is_a_module_or_adamw():
    modules = {module.name for module in pkgutil.iter_modules(optimizers.__path__)}
    assert set(OPTIMIZERS) - set(ELEMENTWISE) == modules - {"pairs", "parts"}
    conf = Path(__file__).parents[2] / "conf"
    options = {path.stem for path in conf.joinpath("optimizer").glob("*.yaml")}
    assert options == set(OPTIMIZERS)


def test_a_setting_that_an_optimizer_lacks_is_refused():
    for name in ("adamw", "lora_pro"):
        with pytest.raises(UserError, match=f"optimizer={name}"):
            build_optimizer(
                lora(), name=name, lr=1e-3, betas=(0.9, 0.9), eps=1e-8, weight_decay=0.0, damping=1
            )


def test_the_documented_table_says_which_adapters_and_optimizers_go_together():
    pytest.importorskip("pytorch_optimizer", reason="the extra `optimizers`")
    page = (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text(encoding="utf-8")
    lines = page.partition("| | lora |")[2].splitlines()
    adapters = [cell.strip() for cell in ("lora |" + lines[0]).strip("| ").split("|")]
    documented = {
        (cells[0], adapter): value == "yes"
        for line in lines[2:]
        if line.startswith("|")
        for cells in [[cell.strip() for cell in line.strip("| ").split("|")]]
        for adapter, value in zip(adapters, cells[1:], strict=True)
    }

    attached = {adapter: lora(adapter) for adapter in adapters}

    def goes(name: str, adapter: str) -> bool:
        try:
            multipliers = {LORA_PLUS: 4.0} if name == "loraplus" else {}
            build_optimizer(
                lora(adapter) if name == "lorafa" else attached[adapter],  # it freezes A
                name=name,
                lr=1e-3,
                betas=(0.9, 0.9),
                eps=1e-8,
                weight_decay=0.0,
                lr_multipliers=multipliers,
            )
        except UserError:
            return False
        return True

    found = {
        (name, adapter): goes(name, adapter)
        for name in OPTIMIZERS
        if name != "adamw8bit"  # needs bitsandbytes; it is AdamW
        for adapter in adapters
    }
    assert found == documented


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda *_, **__: None, "must return a torch.optim.Optimizer"),
        (
            lambda groups, *, lr, **_: torch.optim.SGD(
                [p for group in groups for p in group["params"]], lr=lr
            ),
            "must give the groups as they are",
        ),
    ],
)
def test_a_module_of_ones_own_that_builds_no_such_optimizer_is_named(monkeypatch, build, message):
    module = SimpleNamespace(build_optimizer=build)
    monkeypatch.setattr(optimizer_module, "plugin", lambda *_: module)
    with pytest.raises(UserError, match=f"optimizer=mine: build_optimizer {message}"):
        build_optimizer(
            nn.Linear(2, 2), name="mine", lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0
        )
