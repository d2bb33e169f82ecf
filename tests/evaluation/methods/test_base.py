import pytest

from tests.evaluation.sets import eval_set
from toplora_train.config.errors import UserError
from toplora_train.config.methods import method_names
from toplora_train.evaluation.methods.base import Method, find_method, validate_protocol
from toplora_train.evaluation.protocol import find_protocol


@pytest.mark.parametrize("name", method_names())
def test_every_module_of_the_folder_is_a_method_with_its_own_title(name):
    method = find_method(name)
    assert isinstance(method, Method)
    others = [find_method(other).title for other in method_names() if other != name]
    assert method.title not in others


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_a_different_identity(name):
    task = {"choices": ("a", "b"), "response": "it is {answer}"}
    identities = {
        other: dict(find_method(other).identity(eval_set([], other, **task)))
        for other in method_names()
    }
    same = [other for other, identity in identities.items() if identity == identities[name]]
    assert same == [name]


def test_a_protocol_that_only_generates_is_refused_by_name():
    legacy = eval_set([], protocol=find_protocol("legacy.toplora"))
    with pytest.raises(UserError, match=r"legacy\.toplora generates its answers, but task\.t"):
        validate_protocol(legacy)
    validate_protocol(eval_set([]))
