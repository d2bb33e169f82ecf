"""What each phase of a study runs, given the results of the one before."""

import pytest
import yaml

from toplora_train.config.errors import UserError
from toplora_train.config.locate import options
from toplora_train.report.published import read_table
from toplora_train.study.phases import (
    design_of,
    names,
    needs_held_out,
    validate_keys,
)

METHODS = [("task=[mrpc]", "adapter=lora"), ("task=[mrpc]", "adapter=toplora")]


def design(name, **changes):
    content = yaml.safe_load(options("study")[name].path.read_text(encoding="utf-8"))
    return design_of({**content, **changes})


def run(study, methods, result):
    """The launched jobs by folder; ``result`` gives that of a job."""
    launched = []

    def launch(jobs, inside):
        launched.append((inside, list(jobs)))
        return [result(dict(word.split("=", 1) for word in job)) for job in jobs]

    study.run(study.methods(methods), launch)
    return launched


def report_of(loss):
    """A job's report; None is a failed job."""
    return {} if loss is None else {"train": {"validation_loss": loss}}


def tuned(losses):
    """Reports by adapter, rate and seed."""

    def result(job):
        return report_of(losses[job["adapter"]][float(job["optimizer.lr"])][int(job["seed"])])

    return lambda job: result(job) if "evaluation.enabled" in job else {}


def test_every_adapter_gets_its_own_best_mean_and_seeds_that_chose_nothing(capsys):
    study = design("lr_per_adapter", rates=[1e-3, 1e-2], tuning_seeds=[1, 2], seeds=[11, 12])
    costs = {
        "lora": {1e-3: {1: 0.5, 2: 0.5}, 1e-2: {1: 0.1, 2: 0.8}},
        "toplora": {1e-3: {1: 0.3, 2: 0.3}, 1e-2: {1: 0.1, 2: 0.4}},
    }
    (tuning, trials), (final, runs) = run(study, METHODS, tuned(costs))
    assert (tuning, len(trials)) == ("tuning/", 8)
    assert all(trial[-1] == "evaluation.enabled=false" for trial in trials)
    assert final == ""
    assert runs == [
        ("task=[mrpc]", "adapter=lora", "optimizer.lr=0.01", "seed=11"),
        ("task=[mrpc]", "adapter=lora", "optimizer.lr=0.01", "seed=12"),
        ("task=[mrpc]", "adapter=toplora", "optimizer.lr=0.01", "seed=11"),
        ("task=[mrpc]", "adapter=toplora", "optimizer.lr=0.01", "seed=12"),
    ]
    assert (
        "adapter=lora: optimizer.lr=1e-2 is the best of 2 on the held-out rows; within one "
        "standard error: 1e-3\n" in capsys.readouterr().out
    )


def test_one_method_alone_is_tuned_too_to_be_compared_with_earlier_ones():
    study = design("lr_per_adapter", rates=[1e-3, 1e-2], tuning_seeds=[1], seeds=[11])
    costs = {"lora": {1e-3: {1: 0.5}, 1e-2: {1: 0.1}}}
    (_, trials), (_, runs) = run(study, METHODS[:1], tuned(costs))
    assert len(trials) == 2
    assert runs == [("task=[mrpc]", "adapter=lora", "optimizer.lr=0.01", "seed=11")]


def test_a_rate_at_which_a_seed_failed_is_not_chosen_for_its_other_seed():
    study = design("lr_per_adapter", rates=[1e-3, 1e-2], tuning_seeds=[1, 2], seeds=[11])
    lora = {1e-3: {1: 0.5, 2: 0.5}, 1e-2: {1: 0.1, 2: None}}
    costs = {"lora": lora, "toplora": {1e-3: {1: 0.5, 2: 0.5}, 1e-2: {1: float("nan"), 2: 0.1}}}
    _, (_, runs) = run(study, METHODS, tuned(costs))
    assert [job[-2] for job in runs] == ["optimizer.lr=0.001"] * 2


def test_rates_that_are_equally_good_are_named(capsys):
    study = design("lr_per_adapter", rates=[1e-3, 1e-2], tuning_seeds=[1], seeds=[11])
    run(study, METHODS, lambda _: report_of(0.3))
    said = capsys.readouterr().out
    assert "1e-3 is the best of 2 on the held-out rows; within one standard error: 1e-2\n" in said


def test_an_adapter_whose_tuning_failed_is_left_out_and_named(capsys):
    study = design("lr_per_adapter", rates=[1e-3, 1e-2], tuning_seeds=[1], seeds=[11])
    failed = {1e-3: {1: None}, 1e-2: {1: None}}
    costs = {"lora": failed, "toplora": {1e-3: {1: 0.5}, 1e-2: {1: 0.6}}}
    _, (_, runs) = run(study, METHODS, tuned(costs))
    assert [job[1] for job in runs] == ["adapter=toplora"]
    assert "adapter=lora: all its tuning jobs failed" in capsys.readouterr().out
    assert len(run(study, METHODS, tuned({"lora": failed, "toplora": failed}))) == 1


def test_the_others_get_the_size_of_the_first_instead_of_a_rank():
    study = design("equal_budget", seeds=[1])
    report = {"adapter": {"trainable_parameters": 4096}}
    methods = [(*method, "adapter.r=8") for method in METHODS]
    first, (_, others) = run(study, methods, lambda _: report)
    assert first == ("", [("task=[mrpc]", "adapter=lora", "adapter.r=8", "seed=1")])
    assert others == [("task=[mrpc]", "adapter=toplora", "adapter.budget=4096", "seed=1")]


def test_without_the_first_adapters_size_the_others_do_not_run(capsys):
    assert len(run(design("equal_budget"), METHODS, lambda _: {})) == 1
    assert "adapter=lora: all its jobs failed" in capsys.readouterr().out


def test_the_gate_ablation_has_the_rows_of_the_published_table(compose):
    found = []
    study = design("gate_ablation", seeds=[1])
    ((_, jobs),) = run(study, [("recipe=roberta_base_glue",)], lambda _: {})
    for job in jobs:
        adapter = compose(*job)["adapter"]
        settings = {f"adapter.gate.{key}": value for key, value in adapter.get("gate", {}).items()}
        found.append((adapter["name"], adapter["r"], settings))
    rows = read_table("toplora_ablation").rows
    assert len(rows) == len(found)
    for row, (name, r, settings) in zip(rows, found, strict=True):
        assert (row.adapter, row.r) == (name, r)
        assert row.settings.items() <= settings.items(), row.name


@pytest.fixture
def compose():
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from toplora_train.config.compose import prepare_hydra
    from toplora_train.config.locate import conf_dir

    prepare_hydra()

    def composed(*overrides):
        return OmegaConf.to_container(compose("config", overrides=list(overrides)))

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield composed


@pytest.mark.parametrize("name", options("study"))
def test_the_outline_counts_the_jobs_that_are_run(name):
    report = {"adapter": {"trainable_parameters": 4096}}
    study = design(name)
    listed = [("x=1",), ("x=2",)]
    launched = run(study, listed, lambda job: report | report_of(float(job["seed"])))
    counted = sum(part.jobs for part in study.outline(study.methods(listed)))
    assert counted == sum(len(jobs) for _, jobs in launched)


@pytest.mark.parametrize(
    ("name", "changes", "methods", "message"),
    [
        ("equal_budget", {}, METHODS[:1], "got 1 method; give several, such as adapter="),
        ("lr_per_adapter", {"rates": [1e-3]}, METHODS, "leaves no rate to choose"),
        ("lr_per_adapter", {"rates": [1e-3, -1]}, METHODS, r"study.rates.1: input should be"),
        ("lr_per_adapter", {"seeds": [2]}, METHODS, "both have 2"),
        ("lr_per_adapter", {"seeds": []}, METHODS, "study.seeds: list should have at least 1"),
        ("lr_per_adapter", {"kind": "best"}, METHODS, "study.kind=best is not one of"),
        ("equal_budget", {}, [("adapter.r=4",), ("adapter.r=8",)], "give one adapter.r"),
        ("gate_ablation", {}, [("adapter.r=4",)], "sets adapter.r itself; set study.rows"),
    ],
)
def test_what_leaves_nothing_to_study_is_refused(name, changes, methods, message):
    with pytest.raises(UserError, match=message):
        design(name, **changes).methods(methods)


def test_a_study_sets_its_keys_alone():
    with pytest.raises(UserError, match=r"sets optimizer\.lr itself; set study\.rates"):
        validate_keys(design("lr_per_adapter"), ["adapter", "optimizer.lr"])
    validate_keys(design("lr_per_adapter"), ["adapter", "adapter.r"])


def test_only_a_study_that_tunes_needs_held_out_rows():
    assert [name for name in options("study") if needs_held_out({"kind": design(name).kind})] == [
        "lr_per_adapter"
    ]
    assert not needs_held_out(None)


def test_a_method_is_called_by_what_the_others_lack():
    assert names(METHODS) == ["adapter=lora", "adapter=toplora"]
    assert names(METHODS[:1]) == ["task=[mrpc] adapter=lora"]
