from tests.report.made_up import made_up_predictions
from toplora_train.evaluation.predictions import Prediction
from toplora_train.report.examples import confusion, pick_examples


def test_ten_correct_and_ten_wrong_are_spread_over_the_task():
    right, wrong = pick_examples(made_up_predictions(right=100, wrong=30))
    assert [p.id for p in right] == [f"test-{i}" for i in range(0, 100, 10)]
    assert [p.id for p in wrong] == [f"test-{100 + i}" for i in range(0, 30, 3)]


def test_fewer_than_ten_are_all_shown():
    right, wrong = pick_examples(made_up_predictions(right=3, wrong=0))
    assert len(right) == 3
    assert wrong == []


def test_the_confusion_matrix_counts_each_label_and_prediction():
    def judged(label, predicted):
        scores = {"no": 0.5, "yes": 0.5}
        return Prediction("1", "?", predicted, predicted, label, label == predicted, scores)

    pairs = [("no", "no"), ("no", "yes"), ("yes", "yes"), ("no", "yes")]
    table = confusion([judged(*pair) for pair in pairs])
    assert table == (["no", "yes"], [[1, 2], [0, 1]])
    assert confusion(made_up_predictions(right=1, wrong=1)) is None
    assert confusion([judged("no", "no")], most=1) is None
