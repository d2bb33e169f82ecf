from tests.train.test_step import lora_model
from toplora_train.models.layers import first_layers, repeated_layers
from toplora_train.models.tiny import tiny_model


def test_repeated_layers_are_found_below_an_adapter():
    model = lora_model()
    assert repeated_layers(model) == list(model.get_base_model().model.layers)
    assert len(repeated_layers(tiny_model())) == 2


def test_the_other_layers_are_back_afterwards():
    model = tiny_model()
    names = list(model.state_dict())
    with first_layers(model, 1):
        assert len(repeated_layers(model)) == 1
    assert list(model.state_dict()) == names
