import pytest

from tests.evaluation.methods.test_classify import model, rows
from tests.evaluation.sets import evaluated_by
from toplora_train.evaluation.methods import classify
from toplora_train.evaluation.methods.regress import METHOD
from toplora_train.models.tiny import tiny_tokenizer


def test_regress_predicts_as_classify_without_classes():
    from dataclasses import replace

    questions = [replace(row, answer=str(index / 5)) for index, row in enumerate(rows())]
    how = dict(metric="pearson", max_length=64, batch_size=7)
    found = [
        evaluated_by(method, model(()), tiny_tokenizer(), questions, **how)
        for method in (METHOD, classify.METHOD)
    ]
    assert found[0][1] == found[1][1]
    assert found[0][0].value == pytest.approx(found[1][0].value)
    assert METHOD.title != classify.METHOD.title
