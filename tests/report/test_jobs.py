"""What a study's folder says of its jobs, and which of them are not completed."""

import json
import shutil
from itertools import product

import pytest

from tests.report.run_folders import run_folder
from toplora_train.config.errors import UserError
from toplora_train.report.comparison import compare_runs
from toplora_train.report.comparison_tables import comparison_tables
from toplora_train.report.jobs import (
    JOBS,
    STUDY,
    Unfinished,
    failed_rates,
    read_jobs,
    unfinished_runs,
)
from toplora_train.report.runs import find_runs, find_tuning_runs

EARLIER, LATER = "toplora-train -m seed=1,2,3 output_dir=S", "toplora-train -m seed=4 output_dir=S"


def study(folder):
    """Four jobs, of which the first is completed, the second failed and the third was deleted."""
    jobs = [
        {"digest": str(n), "overrides": f"seed={n}", "folder": f"s{n}", "planned": f"t{n // 4}"}
        for n in (1, 2, 3, 4)
    ]
    commands = [{"time": "t0", "command": EARLIER}, {"time": "t1", "command": LATER}]
    for seed in (1, 2, 3):
        run_folder(folder / f"s{seed}", seed=seed)
    written = {"schema_version": 1, "created": "t0", "commands": commands, "of": {}, "jobs": jobs}
    (folder / STUDY).write_text(json.dumps(written))
    failed = {"schema_version": 1, "status": "failed", "error": "out of memory"}
    (folder / "s2" / "report.json").write_text(json.dumps(failed))
    events = [
        {"digest": str(n), "event": "ended", "exit_code": code, "error": error, "seconds": 1.0}
        for n, code, error in ((1, 0, None), (2, 1, "out of memory"), (3, 0, None))
    ]
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / JOBS).write_text(text + '{"digest": "4", "eve')
    shutil.rmtree(folder / "s3")


def test_the_jobs_that_are_not_completed_are_listed_with_the_command_that_continues_them(tmp_path):
    study(tmp_path)
    assert [job.status for job in read_jobs(tmp_path)] == [
        "completed",
        "failed",
        "completed",
        "waiting",
    ]
    assert unfinished_runs([tmp_path]) == [
        Unfinished("seed=2", "failed", "out of memory", EARLIER),
        Unfinished("seed=3", "missing", "", EARLIER),
        Unfinished("seed=4", "waiting", "", LATER),
    ]


def test_what_is_completed_is_compared_and_the_rest_is_in_the_report(tmp_path):
    study(tmp_path)
    document = compare_runs(find_runs([tmp_path]), unfinished=unfinished_runs([tmp_path]))
    assert [method["seeds"] for method in document["methods"]] == [[1]]
    (table,) = [one for one in comparison_tables(document) if one.title == "Not compared"]
    assert [row[0].text for row in table.rows] == ["seed=2", "seed=3", "seed=4"]
    sentence, *commands = document["warnings"][0].split("\n")
    assert sentence.startswith("3 runs of the study are not completed")
    assert commands == [EARLIER, LATER]


def chosen_again(folder, *, trials=True):
    """Seed 1 chose 1e-3 for both adapters; then seeds 2 and 3 were listed for LoRA: 1e-2."""
    losses = {1: {1e-3: 0.1, 1e-2: 0.2}, 2: {1e-3: 0.4, 1e-2: 0.1}, 3: {1e-3: 0.4, 1e-2: 0.1}}
    tuning = [("lora", lr, seed, seed // 2) for seed in losses for lr in losses[seed]]
    tuning += [("toplora", lr, 1, 0) for lr in losses[1]]
    final = [("lora", 1e-3, seed, 0) for seed in (11, 12)] + [("lora", 1e-2, 11, 1)]
    final += [("lora", 1e-2, 12, 1), ("toplora", 1e-3, 11, 0), ("toplora", 1e-3, 12, 0)]
    jobs = []
    for inside, planned in (("tuning/", tuning), ("", final)):
        for adapter, lr, seed, command in planned:
            name = f"{inside}{adapter}-{lr}-{seed}"
            loss = losses[seed][lr] if inside else None
            if trials or not inside:
                run_folder(folder / name, adapter=adapter, lr=lr, seed=seed, held_out=loss)
            words = f"adapter={adapter} optimizer.lr={lr} seed={seed}"
            job = {"digest": name, "overrides": words, "folder": name, "method": adapter}
            jobs.append(job | {"planned": f"t{command}"})
    commands = [{"time": "t0", "command": EARLIER}, {"time": "t1", "command": LATER}]
    written = {"schema_version": 1, "created": "t0", "commands": commands, "of": {}, "jobs": jobs}
    (folder / STUDY).write_text(json.dumps(written))


def test_runs_at_a_rate_that_a_study_no_longer_chooses_are_left_out_and_named(tmp_path):
    chosen_again(tmp_path)
    tuning = find_tuning_runs([tmp_path])
    document = compare_runs(
        find_runs([tmp_path]), tuning=tuning, unfinished=unfinished_runs([tmp_path])
    )
    methods = {one["name"]: one["seeds"] for one in document["methods"]}
    assert methods == {
        "lora optimizer.lr=0.01": [11, 12],
        "toplora optimizer.lr=0.001": [11, 12],
    }
    # The curves are of the trials that chose: LoRA's of seeds 2 and 3, TopLoRA's of seed 1.
    curves = document["learning_rates"]["curves"]
    assert [curves[name]["best"] for name in ("lora", "toplora")] == [1e-2, 1e-3]
    assert [len(curves[name]["points"][0]["values"]) for name in ("lora", "toplora")] == [2, 1]
    left_out = [one.name for one in unfinished_runs([tmp_path])]
    assert left_out == [
        *(f"adapter=lora optimizer.lr={lr} seed=1" for lr in (1e-3, 1e-2)),
        *(f"adapter=lora optimizer.lr=0.001 seed={seed}" for seed in (11, 12)),
    ]
    (warning,) = [one for one in document["warnings"] if one.startswith("Left out")]
    assert warning == (
        "Left out: 2 runs at a learning rate that the study no longer chooses: adapter=lora "
        "optimizer.lr=0.001."
    )
    assert not [one for one in document["warnings"] if "not completed" in one]


def test_while_trials_are_missing_no_rate_is_said_to_be_at_the_edge_or_chance(tmp_path):
    chosen_again(tmp_path)
    document = compare_runs(find_runs([tmp_path]), tuning=find_tuning_runs([tmp_path]))
    assert [one for one in document["warnings"] if "grid's edge" in one]
    (tmp_path / "tuning" / "lora-0.01-3" / "report.json").unlink()
    document = compare_runs(
        find_runs([tmp_path]),
        tuning=find_tuning_runs([tmp_path]),
        unfinished=unfinished_runs([tmp_path]),
    )
    (missing,) = [one for one in document["warnings"] if "of the study" in one and LATER in one]
    assert missing.startswith("1 run of the study is not completed and not compared.")
    assert not [one for one in document["warnings"] if "grid's edge" in one or "chance" in one]


def test_a_rate_at_which_a_trial_failed_was_tried(tmp_path):
    """LoRA's best rate is the highest one that did not fail."""
    jobs = []
    for adapter, lr, seed in [
        *product(("lora", "toplora"), (1e-3, 1e-2, 1e-1), (1,)),
        *product(("lora", "toplora"), (1e-2,), (11, 12)),
    ]:
        name = f"{'tuning/' if seed == 1 else ''}{adapter}-{lr}-{seed}"
        folder = run_folder(
            tmp_path / name, adapter=adapter, lr=lr, seed=seed, held_out=abs(lr - 1e-2)
        )
        words = f"adapter={adapter} optimizer.lr={lr} seed={seed}"
        jobs.append({"digest": name, "overrides": words, "folder": name, "method": adapter})
        if (adapter, lr) == ("lora", 1e-1):
            (folder / "report.json").write_text(
                json.dumps({"schema_version": 1, "status": "failed", "error": "the loss is nan"})
            )
            ended = {"digest": name, "event": "ended", "exit_code": 1, "error": "the loss is nan"}
            (tmp_path / JOBS).write_text(json.dumps(ended) + "\n")
    written = {"schema_version": 1, "created": "", "commands": [], "of": {}, "jobs": jobs}
    (tmp_path / STUDY).write_text(json.dumps(written))
    unfinished = unfinished_runs([tmp_path])
    found = {"tuning": find_tuning_runs([tmp_path]), "unfinished": unfinished}
    document = compare_runs(find_runs([tmp_path]), **found)
    assert document["learning_rates"]["curves"]["lora"]["best"] == 1e-2
    assert failed_rates(unfinished) == {(tmp_path / "tuning" / "lora-0.001-1").resolve(): [1e-1]}
    assert not [
        one for one in document["warnings"] if "edge" in one or "different learning rates" in one
    ]


def test_a_study_that_still_chooses_learning_rates_has_nothing_to_compare_and_says_so(tmp_path):
    chosen_again(tmp_path)
    for report in tmp_path.glob("*/report.json"):
        report.unlink()
    with pytest.raises(UserError) as error:
        find_runs([tmp_path])
    assert str(error.value) == (
        f"{tmp_path}: none of its runs is completed except 6 to choose learning rates; "
        f"adapter=lora optimizer.lr=0.01 seed=11: waiting; continue with {LATER}"
    )


def test_a_run_outside_a_study_is_resumed_by_its_own_command(tmp_path):
    run_folder(tmp_path / "a")
    cut = run_folder(tmp_path / "b", seed=2)
    (cut / "report.json").unlink()
    (one,) = unfinished_runs([tmp_path])
    assert (one.name, one.state) == ("b", "interrupted")
    assert one.command.endswith(f"output_dir={cut} resume=auto")
    assert unfinished_runs([tmp_path / "a"]) == []
