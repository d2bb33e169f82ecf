from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import yaml

from tests.report.made_up import made_up_report
from tests.report.run_folders import run_folder, with_optimizer
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.report.methods import group, typed
from toplora_train.report.runs import find_runs


def test_runs_on_other_rows_are_another_method_even_if_the_file_has_the_same_name(tmp_path: Path):
    data = made_up_report().data
    for seed, digest in ((1, "a" * 64), (2, "a" * 64), (3, "b" * 64)):
        run_folder(tmp_path / str(seed), seed=seed, data=replace(data, sha256=digest))
    methods = group(find_runs([tmp_path]))
    assert {m.name: [r.report["seed"] for r in m.runs] for m in methods} == {
        "lora dataset.sha256=aaaaaaaaaaaa": [1, 2],
        "lora dataset.sha256=bbbbbbbbbbbb": [3],
    }


def test_runs_that_differ_only_in_seed_are_one_method(tmp_path: Path):
    for seed in (1, 2):
        for adapter in ("lora", "toplora"):
            run_folder(tmp_path / f"{adapter}{seed}", adapter=adapter, seed=seed)
    methods = group(find_runs([tmp_path]))
    assert [(m.name, [r.report["seed"] for r in m.runs]) for m in methods] == [
        ("lora", [1, 2]),
        ("toplora", [1, 2]),
    ]


def test_a_method_is_named_by_the_settings_that_differ(tmp_path: Path):
    run_folder(tmp_path / "a", lr=1e-3)
    run_folder(tmp_path / "b", lr=2e-3)
    assert [m.name for m in group(find_runs([tmp_path]))] == [
        "lora optimizer.lr=0.001",
        "lora optimizer.lr=0.002",
    ]


def test_where_several_settings_differ_a_name_leaves_out_the_defaults(tmp_path: Path):
    def names(*changes: dict[str, object]) -> list[str]:
        folder = tmp_path / f"{len(changes)} of {len(list(tmp_path.iterdir()))}"
        for number, change in enumerate(changes):
            path = run_folder(folder / f"{number}", adapter="toplora") / "config.yaml"
            config = yaml.safe_load(path.read_text())
            config["adapter"] |= change
            path.write_text(yaml.safe_dump(config))
        return [method.name for method in group(find_runs([folder]))]

    full = {"norm": "rms", "activation": "exp"}
    ablation = [full, full | {"norm": "none"}, full | {"activation": "identity"}]
    assert names(*({"gate": gate} for gate in ablation)) == [
        "toplora",
        "toplora adapter.gate.norm=none",
        "toplora adapter.gate.activation=identity",
    ]
    assert names({"dropout": 0.05}, {"dropout": None}, {"use_rslora": True}) == [
        "toplora adapter.dropout=0.05 adapter.use_rslora=false",
        "toplora adapter.use_rslora=false",
        "toplora adapter.dropout=0.05 adapter.use_rslora=true",
    ], "two would have one name"


@pytest.mark.parametrize(
    ("value", "text"),
    [(["q", "v"], "[q,v]"), (True, "true"), (None, "null"), (1e-4, "0.0001"), ("a.*", "a.*")],
)
def test_a_value_in_a_name_is_as_it_is_typed(value, text):
    assert typed(value) == text


def test_the_same_run_twice_is_refused(tmp_path: Path):
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b")
    with pytest.raises(UserError, match="another run has the same settings and seed"):
        group(find_runs([tmp_path]))


def test_a_setting_that_a_method_does_not_have_is_not_in_its_name(tmp_path: Path):
    run_folder(tmp_path / "a")
    config = yaml.safe_load(
        (run_folder(tmp_path / "b", adapter="toplora") / "config.yaml").read_text()
    )
    config["adapter"]["budget"] = "4096"
    (tmp_path / "b" / "config.yaml").write_text(yaml.safe_dump(config))
    names = [method.name for method in group(find_runs([tmp_path]))]
    assert names == ["lora", "toplora adapter.budget=4096"]


def test_what_each_adapter_has_by_default_is_not_in_its_name(tmp_path: Path):
    for adapter, init in (("lora", "kaiming"), ("tenslora", "orthogonal"), ("dora", "pissa")):
        path = run_folder(tmp_path / adapter, adapter=adapter) / "config.yaml"
        config = yaml.safe_load(path.read_text())
        config["adapter"]["init"] = init
        path.write_text(yaml.safe_dump(config))
    runs = {run.settings["adapter.name"]: run for run in find_runs([tmp_path])}
    names = [method.name for method in group([runs["lora"], runs["tenslora"]])]
    assert names == ["lora", "tenslora"]
    names = [method.name for method in group([runs["tenslora"], runs["dora"]])]
    assert names == ["tenslora adapter.init=orthogonal", "dora adapter.init=pissa"]


def test_the_module_of_a_method_of_ones_own_is_not_in_a_name(tmp_path: Path):
    for adapter, plugins in (("toplora", {"adapter/toplora": "0" * 64}), ("lora", {})):
        path = run_folder(tmp_path / adapter, adapter=adapter) / "config.yaml"
        config = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(config | {"plugins": plugins}))
    names = [method.name for method in group(find_runs([tmp_path]))]
    assert not any("plugins" in name for name in names)


def test_optimizers_are_methods_named_without_what_each_has_by_default(tmp_path: Path):
    for optimizer in ("adamw", "loraplus", "muon", "lorsum"):
        with_optimizer(run_folder(tmp_path / optimizer), optimizer)
    names = [method.name for method in group(find_runs([tmp_path]))]
    others = [f"lora optimizer={optimizer}" for optimizer in ("loraplus", "lorsum", "muon")]
    assert names == ["lora", *others]


def test_neither_an_options_name_nor_a_setting_that_is_not_set_makes_another_method(tmp_path: Path):
    for seed, name in ((1, "default"), (2, "mine")):
        path = run_folder(tmp_path / name, seed=seed) / "config.yaml"
        config = yaml.safe_load(path.read_text())
        config["trainer"]["name"] = name
        if name == "mine":
            del config["trainer"]["max_tokens"]  # of an earlier version, which did not have it
        path.write_text(yaml.safe_dump(config))
    (method,) = group(find_runs([tmp_path]))
    assert len(method.runs) == 2


def test_a_setting_that_came_later_has_its_default_in_an_archive(tmp_path: Path):
    for seed in (1, 2):
        run_folder(tmp_path / str(seed), seed=seed)
    now, then = find_runs([tmp_path])
    earlier = {key: value for key, value in then.settings.items() if key != "trainer.save_every"}
    (method,) = group([now, replace(then, settings=earlier)])
    assert len(method.runs) == 2


@pytest.mark.parametrize("key", [("adapter", "dropout"), ("optimizer", "settings", "metric_power")])
def test_a_setting_that_came_later_has_its_default_in_earlier_runs(tmp_path: Path, key):
    for seed in (1, 2):
        with_optimizer(folder := run_folder(tmp_path / str(seed), seed=seed), "lorsum")
        path = folder / "config.yaml"
        config = yaml.safe_load(path.read_text())
        config["adapter"] = dict(adapter_defaults("lora")[0])
        if seed == 1:
            *groups, name = key
            del reduce(getitem, groups, config)[name]
        path.write_text(yaml.safe_dump(config))
    (method,) = group(find_runs([tmp_path]))
    assert len(method.runs) == 2


def test_a_number_is_one_setting_whatever_its_type(tmp_path: Path):
    for seed, value in ((1, 1), (2, 1.0)):
        path = run_folder(tmp_path / str(seed), seed=seed) / "config.yaml"
        config = yaml.safe_load(path.read_text())
        config["optimizer"]["settings"] = {"max_grad_norm": value}
        path.write_text(yaml.safe_dump(config))
    (method,) = group(find_runs([tmp_path]))
    assert len(method.runs) == 2


def test_names_do_not_depend_on_the_order_of_the_runs(tmp_path: Path):
    for name, lr, optimizer in (("a", 1e-3, "adamw"), ("b", 1e-2, "muon"), ("c", 3e-2, "muon")):
        with_optimizer(run_folder(tmp_path / name, lr=lr), optimizer)
    runs = find_runs([tmp_path])
    there, back = (sorted(m.name for m in group(one)) for one in (runs, runs[::-1]))
    assert there == back
    assert [method.name for method in group(runs[1:2])] == ["lora optimizer=muon"]
