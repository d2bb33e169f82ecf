from tests.report.made_up import made_up_predictions
from toplora_train.report.examples import pick_examples


def test_ten_correct_and_ten_wrong_are_spread_over_the_task():
    right, wrong = pick_examples(made_up_predictions(right=100, wrong=30))
    assert [p.id for p in right] == [f"test-{i}" for i in range(0, 100, 10)]
    assert [p.id for p in wrong] == [f"test-{100 + i}" for i in range(0, 30, 3)]


def test_fewer_than_ten_are_all_shown():
    right, wrong = pick_examples(made_up_predictions(right=3, wrong=0))
    assert len(right) == 3
    assert wrong == []
