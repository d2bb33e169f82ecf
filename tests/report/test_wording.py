from typing import Any

from toplora_train.report.wording import JUDGING, WRITING, head_verdict, wording


def report(**tasks: tuple[str, float, float]) -> dict[str, Any]:
    return {
        "tasks": {
            name: {"kind": kind, "ci95": (low, 1.0), "majority_value": majority}
            for name, (kind, low, majority) in tasks.items()
        }
    }


def test_a_run_of_labels_is_told_in_other_words_than_one_of_texts():
    assert wording(report(rte=("classify", 0.6, 0.5))) is JUDGING
    assert wording(report(stsb=("regress", 0.6, 0.0))) is JUDGING
    assert wording(report(boolq=("generate", 0.6, 0.5))) is WRITING
    assert wording(report()) is WRITING


def test_a_head_is_held_against_the_most_frequent_answer():
    assert head_verdict(report(a=("classify", 0.6, 0.5))).startswith("The tuned model is better")
    untold = head_verdict(report(a=("classify", 0.4, 0.5)))
    assert "cannot be told from these rows." in untold
    both = head_verdict(report(a=("classify", 0.6, 0.5), b=("classify", 0.4, 0.5)))
    assert both.endswith("cannot be told from these rows of b.")
