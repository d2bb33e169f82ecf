from pathlib import Path

from toplora_train.evaluation.run_evaluation import Score
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


def test_the_conclusion_gives_every_score_its_interval_and_n():
    task = {"value": 0.5, "ci95": [0.4, 0.6], "base_value": 0.1, "base_ci95": [0.05, 0.2], "n": 99}
    report = {
        "tasks": {"arithmetic": task},
        "adapter": {"trainable_parameters": 1234},
        "train": {"steps": 5, "seconds": 61.0},
        "reload": {"max_abs_logit_difference": 0.0},
    }
    text = conclusion(report, Path("runs/x"))
    assert "base 10.0 % (5.0 to 20.0) -> tuned 50.0 % (40.0 to 60.0), n = 99" in text
    assert "runs/x/report.html" in text


HEAD = {"base_value": None, "base_ci95": None, "n": 99, "majority_value": 0.4}


def concluded(name, **task):
    report = {
        "tasks": {name: HEAD | task},
        "adapter": {"trainable_parameters": 1234},
        "train": {"steps": 1, "seconds": 61.0},
        "reload": {"max_abs_logit_difference": 0.0},
    }
    return conclusion(report, Path("runs/x"))


def test_a_classification_is_held_against_its_most_frequent_class():
    text = concluded("sst2", kind="classify", metric="accuracy", value=0.5, ci95=[0.4, 0.6])
    assert "sst2: the most frequent class 40.0 % -> tuned 50.0 % (40.0 to 60.0), n = 99" in text


def test_a_regression_has_no_most_frequent_answer():
    text = concluded("stsb", kind="regress", metric="pearson", value=0.5, ci95=[0.4, 0.6])
    assert "stsb (pearson): tuned 50.0 % (40.0 to 60.0), n = 99" in text
    assert "most frequent" not in text


def test_constant_targets_are_concluded_as_undefined():
    text = concluded("stsb", kind="regress", metric="pearson", value=0.0, ci95=[0.0, 0.0])
    assert "stsb (pearson): tuned undefined, n = 99" in text


def test_one_step_is_one_step_and_a_minute_is_said_as_one():
    text = concluded("sst2", kind="classify", metric="accuracy", value=0.5, ci95=[0.4, 0.6])
    assert "for 1 step in 1 min 1 s" in text
