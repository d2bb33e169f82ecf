from typing import Any

from toplora_train.report.wording import HEAD, LANGUAGE_MODEL, head_verdict, wording


def report(**tasks: tuple[str, float, float]) -> dict[str, Any]:
    return {
        "tasks": {
            name: {"kind": kind, "ci95": (low, 1.0), "majority_value": majority}
            for name, (kind, low, majority) in tasks.items()
        }
    }


def test_heads_and_language_models_have_different_texts():
    assert wording(report(rte=("classify", 0.6, 0.5))) is HEAD
    assert wording(report(stsb=("regress", 0.6, 0.0))) is HEAD
    assert wording(report(boolq=("generate", 0.6, 0.5))) is LANGUAGE_MODEL
    assert wording(report()) is LANGUAGE_MODEL


def test_a_head_is_compared_with_the_most_frequent_answer():
    assert head_verdict(report(a=("classify", 0.6, 0.5))).startswith("The tuned model is better")
    unclear = head_verdict(report(a=("classify", 0.4, 0.5)))
    assert "not significantly better than always" in unclear
    both = head_verdict(report(a=("classify", 0.6, 0.5), b=("classify", 0.4, 0.5)))
    assert both.endswith("the most frequent class on b.")
