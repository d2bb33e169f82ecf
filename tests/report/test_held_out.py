from toplora_train.report.held_out import held_out


def test_without_a_selection_it_is_the_last_validation_loss():
    loss = {"train": {"validation_loss": 2.5, "selection": None}}
    assert held_out(loss) == ("validation loss", 2.5, None)
    assert held_out({"train": {"validation_loss": None}}) is None
    assert held_out({}) is None


def test_with_a_selection_it_is_the_result_of_the_selected_step():
    epochs = [{"step": 2, "value": 0.5}, {"step": 4, "value": 0.75}, {"step": 6, "value": 0.25}]
    chosen = {"step": 4, "epochs": epochs, "metric": "accuracy", "rows": 8}
    assert held_out({"train": {"validation_loss": 9.0, "selection": chosen}}) == (
        "accuracy",
        0.75,
        8,
    )
