from pathlib import Path

from tests.report.made_up import made_up_report
from tests.report.made_up import task_score as made_up_score
from toplora_train.evaluation.run_evaluation import Score
from toplora_train.report.record import Reload
from toplora_train.run.assemble.run_report import conclusion, identity, introduction, task_score
from toplora_train.run.prepare.run_data import prepare
from toplora_train.train.checkpoint import TrainState


def test_a_score_stands_beside_the_base_models_and_the_majority(make_run):
    (eval_set,) = prepare(make_run()).eval_sets
    labels = [row.answer for row in eval_set.rows.rows]
    commonest = max(labels.count(label) for label in labels) / len(labels)
    score = Score("accuracy", 2 / 3, 3, (0.2, 0.9), 1.5)
    base = Score("accuracy", 1 / 3, 3, (0.1, 0.8), 2.5)
    both = task_score(eval_set, score, {"arithmetic": base})
    assert (both.value, both.base_value, both.majority_value) == (2 / 3, 1 / 3, commonest)
    assert task_score(eval_set, score, {}).base_value is None


def test_other_rows_or_other_extraction_are_another_protocol(make_run):
    (eval_set,) = prepare(make_run()).eval_sets
    assert identity(eval_set)["rows"] == eval_set.rows.sha256
    assert identity(eval_set).keys() >= {"extraction", "choices", "max_new_tokens", "version"}


def test_the_introduction_says_what_is_about_to_happen(make_run):
    config = make_run()
    text = introduction(config, prepare(config), TrainState(step=2))
    assert "toplora on toplora-train/tiny" in text
    assert "20 rows, 4 steps of 8, resuming after step 2" in text
    assert "arithmetic (3 rows)" in text


def test_the_conclusion_gives_scores_verdict_and_cost_in_eighty_columns():
    tasks = {"arithmetic": made_up_score(256, 400, 48), "a_task_with_a_long_name": made_up_score()}
    report = made_up_report(tasks=tasks).to_dict()
    assert conclusion(report, Path("runs/x")).splitlines() == [
        "                  base model            tuned                  rows",
        "arithmetic        12.0 % (9.2 to 15.6)  64.0 % (59.2 to 68.6)  400",
        "a_task_wit…_name  12.0 % (9.2 to 15.6)  64.0 % (59.2 to 68.6)  400",
        "The tuned model is better than its base model: +52.0 points (+47.1 to +56.9).",
        "12,345 trainable parameters, 150 steps in 5 min 13 s, 2.0 GiB at peak",
        "report   runs/x/report.html",
        "adapter  runs/x/adapter",
    ]


def test_the_conclusion_tells_of_a_reload_that_differs():
    report = made_up_report(tasks={}, reload=Reload(3e-5, [], [])).to_dict()
    assert "the reloaded adapter's logits differ by 3e-05" in conclusion(report, Path("x"))


HEAD = {"base_value": None, "base_ci95": None, "n": 99, "majority_value": 0.4}


def concluded(name, **task):
    report = {
        "tasks": {name: HEAD | task},
        "adapter": {"trainable_parameters": 1234},
        "train": {"steps": 1, "seconds": 61.0, "peak_memory_bytes": 2**31},
        "reload": {"max_abs_logit_difference": 0.0},
    }
    return conclusion(report, Path("runs/x"))


def test_a_classification_is_held_against_its_most_frequent_class():
    text = concluded("sst2", kind="classify", metric="accuracy", value=0.5, ci95=[0.4, 0.6])
    assert "sst2  40.0 %         50.0 % (40.0 to 60.0)  99" in text


def test_a_regression_has_no_most_frequent_answer():
    text = concluded("stsb", kind="regress", metric="pearson", value=0.5, ci95=[0.4, 0.6])
    assert "stsb (pearson)  50.0 % (40.0 to 60.0)  99" in text
    assert "most frequent" not in text


def test_constant_targets_are_concluded_as_undefined():
    text = concluded("stsb", kind="regress", metric="pearson", value=0.0, ci95=[0.0, 0.0])
    assert "stsb (pearson)  undefined  99" in text


def test_one_step_is_one_step_and_a_minute_is_said_as_one():
    text = concluded("sst2", kind="classify", metric="accuracy", value=0.5, ci95=[0.4, 0.6])
    assert "1 step in 1 min 1 s" in text
