from pathlib import Path

import pytest

from tests.report.run_folders import run_folder, with_optimizer
from toplora_train.config.errors import UserError
from toplora_train.report.comparison import compare_runs
from toplora_train.report.fairness import (
    budget_warning,
    learning_rate_warning,
    limit_warning,
    seed_warning,
    validate_same_protocols,
)
from toplora_train.report.methods import group
from toplora_train.report.runs import find_runs


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            {"protocol": "legacy.toplora"},
            "protocol clean and legacy.toplora.*toplora-eval run=.*/b protocol=clean name=again",
        ),
        (
            {"right": {"u": [True]}},
            r"tasks t and u.*toplora-eval run=.*/b 'task=\[t\]' name=again",
        ),
        (
            {"right": {"t": [True]}, "limit": 1},
            "t: n 20 and 1.*toplora-eval run=.*/b limit=null name=again",
        ),
        ({"right": {"t": [True]}}, "t: n 20 and 1.*; evaluate both on the same test rows, in the"),
        (
            {"kind": "choose"},
            "t: kind generate and choose.*run=.*/b multiple_choice=generate name=again",
        ),
        (
            {},
            "their test rows or prompts differ.*; evaluate both on the same test rows, in the same",
        ),
    ],
)
def test_runs_that_were_evaluated_differently_are_refused(tmp_path: Path, other, reason):
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", seed=2, protocol_hash="f" * 16, **other)
    with pytest.raises(UserError, match=f"a and b were evaluated differently .*{reason}"):
        validate_same_protocols(find_runs([tmp_path]))


def test_the_command_that_evaluates_again_keeps_the_users_folder(tmp_path: Path):
    command = "toplora-train recipe=smoke adapter=mine --config-dir 'my own' output_dir=x"
    run_folder(tmp_path / "a", command=command, limit=20)
    warning = limit_warning(group(find_runs([tmp_path])))
    assert warning.endswith("/a limit=null name=all 'config_dir=my own'")


def test_runs_with_heads_of_different_tasks_are_compared_by_task(tmp_path: Path):
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", right={"u": [True]}, protocol_hash="f" * 16, kind="classify")
    with pytest.raises(UserError, match="a head answers the task it was trained on only"):
        validate_same_protocols(find_runs([tmp_path]))


def test_a_single_seed_gives_a_warning_with_the_command_for_more(tmp_path: Path):
    command = "toplora-train -m recipe=smoke adapter='lora' seed=1 output_dir=x"
    run_folder(tmp_path / "a", command=command)
    assert seed_warning(group(find_runs([tmp_path]))) is None
    run_folder(tmp_path / "b", adapter="toplora", command=command)
    warning = seed_warning(group(find_runs([tmp_path])))
    assert "Only one seed of lora, toplora: the result applies to these adapters" in warning
    assert "toplora-train -m recipe=smoke adapter=lora seed=2,3" in warning
    for seed in (4, 5):
        run_folder(tmp_path / str(seed), adapter="toplora", seed=seed)
    warning = seed_warning(group(find_runs([tmp_path])))
    assert "Only one seed of lora:" in warning
    assert warning.endswith("seed=4,5")


def test_different_learning_rates_give_a_warning(tmp_path: Path):
    run_folder(tmp_path / "a", lr=1e-3)
    run_folder(tmp_path / "b", adapter="toplora", lr=1e-3)
    assert learning_rate_warning(group(find_runs([tmp_path])), {}) is None
    run_folder(tmp_path / "c", adapter="toplora", lr=2e-3)
    warning = learning_rate_warning(group(find_runs([tmp_path])), {})
    assert "lora 0.001, toplora 0.001, 0.002" in warning
    assert "The missing ones:\ntoplora-train -m recipe=smoke optimizer.lr=2e-3 seed=1" in warning


def test_learning_rates_of_another_optimizer_are_not_compared(tmp_path: Path):
    with_optimizer(run_folder(tmp_path / "a", lr=1e-3), "adamw")
    with_optimizer(run_folder(tmp_path / "b", lr=1e-2), "muon")
    assert learning_rate_warning(group(find_runs([tmp_path])), {}) is None
    with_optimizer(run_folder(tmp_path / "c", adapter="dora", lr=3e-2), "muon")
    warning = learning_rate_warning(group(find_runs([tmp_path])), {})
    assert "lora 0.001, lora optimizer=muon 0.01, dora optimizer=muon 0.03" in warning


def test_each_task_may_have_learning_rates_of_its_own(tmp_path: Path):
    for adapter in ("lora", "dora"):
        for task, lr in (("a", 1e-3), ("b", 2e-3)):
            answers = {task: [True, False] * 10}
            run_folder(
                tmp_path / f"{adapter}{task}",
                adapter=adapter,
                lr=lr,
                right=answers,
                kind="classify",
            )
    assert not any(
        "learning rates" in one for one in compare_runs(find_runs([tmp_path]))["warnings"]
    )


def test_unequal_sizes_give_a_warning_with_the_budget_that_makes_them_equal(tmp_path: Path):
    run_folder(tmp_path / "a", parameters=1000)
    run_folder(tmp_path / "b", adapter="dora", parameters=1090)
    methods = group(find_runs([tmp_path]))
    assert budget_warning(methods, methods[0]) is None
    command = "toplora-train -m recipe=smoke adapter=toplora adapter.r=16 seed=1,2 output_dir=x"
    for seed in (1, 2):
        run_folder(
            tmp_path / f"c{seed}", adapter="toplora", seed=seed, parameters=1500, command=command
        )
    methods = group(find_runs([tmp_path]))
    assert budget_warning(methods, methods[0]) == (
        "The methods train different numbers of parameters (lora 1,000, toplora 1,500 (+50%)); "
        "differences may be due to the size alone. At the size of lora:\ntoplora-train -m "
        "recipe=smoke adapter=toplora adapter.budget=1000 seed=1,2"
    )


def test_a_cut_evaluation_gives_a_warning_with_the_command_for_all_rows(tmp_path: Path):
    run_folder(tmp_path / "a", limit=21)
    assert limit_warning(group(find_runs([tmp_path]))) is None
    run_folder(tmp_path / "b", limit=20, seed=2)
    warning = limit_warning(group(find_runs([tmp_path])))
    assert "Only the first 20 rows of each task were evaluated" in warning
    assert f"toplora-eval run={tmp_path / 'b'} limit=null name=all" in warning


def test_of_many_methods_the_first_few_are_named(tmp_path: Path):
    for lr in (1e-4, 2e-4, 3e-4, 4e-4, 5e-4):
        run_folder(tmp_path / str(lr), lr=lr)
    warning = seed_warning(group(find_runs([tmp_path])))
    assert "lora optimizer.lr=0.0003 and 2 more: the result" in warning


def test_of_many_commands_the_first_few_are_shown(tmp_path: Path):
    for seed in range(5):
        run_folder(tmp_path / str(seed), limit=20, seed=seed)
    warning = limit_warning(group(find_runs([tmp_path])))
    sentence, *commands, rest = warning.split("\n")
    assert sentence.endswith("RUN/evaluations/all:")
    assert [command.split()[0] for command in commands] == ["toplora-eval"] * 3
    assert rest == "and 2 more"
