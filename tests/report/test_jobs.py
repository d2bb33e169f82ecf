"""What a study's folder says of its jobs, and which of them are not completed."""

import json
import shutil

from tests.report.run_folders import run_folder
from toplora_train.report.comparison import compare_runs
from toplora_train.report.comparison_tables import comparison_tables
from toplora_train.report.jobs import JOBS, STUDY, Unfinished, read_jobs, unfinished_runs
from toplora_train.report.runs import find_runs

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
    (table,) = [one for one in comparison_tables(document) if one.title == "Not completed"]
    assert [row[0].text for row in table.rows] == ["seed=2", "seed=3", "seed=4"]
    sentence, *commands = document["warnings"][0].split("\n")
    assert sentence.startswith("3 runs of the study are not completed")
    assert commands == [EARLIER, LATER]


def test_a_run_outside_a_study_is_resumed_by_its_own_command(tmp_path):
    run_folder(tmp_path / "a")
    cut = run_folder(tmp_path / "b", seed=2)
    (cut / "report.json").unlink()
    (one,) = unfinished_runs([tmp_path])
    assert (one.name, one.state) == ("b", "interrupted")
    assert one.command.endswith(f"output_dir={cut} resume=auto")
    assert unfinished_runs([tmp_path / "a"]) == []
