from tests.report.made_up import made_up_predictions
from toplora_train.evaluation.predictions import Prediction
from toplora_train.report.confusion import confusion


def test_the_confusion_matrix_counts_each_label_and_prediction():
    def judged(label, predicted):
        scores = {"no": 0.5, "yes": 0.5}
        return Prediction("1", "?", predicted, predicted, label, label == predicted, scores)

    pairs = [("no", "no"), ("no", "yes"), ("yes", "yes"), ("no", "yes")]
    table = confusion([judged(*pair) for pair in pairs])
    assert table == (["no", "yes"], [[1, 2], [0, 1]])
    assert confusion(made_up_predictions(right=1, wrong=1)) is None
    assert confusion([judged("no", "no")], most=1) is None
