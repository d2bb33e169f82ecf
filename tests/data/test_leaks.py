import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.leaks import validate_overlap, validate_sources

LEAKY = "llm-adapters:ft-training_set/math_data.json"


@pytest.mark.parametrize("source", [LEAKY, "/data/math_data.json", "math_data.json"])
def test_data_known_to_contain_test_rows_is_refused_anywhere(source):
    with pytest.raises(UserError, match=r"contains about 80 %.*dataset\.allow_leaks=\[math_data"):
        validate_sources(["rows.jsonl", source], allowed=[])


def test_it_can_be_allowed_by_name():
    validate_sources([LEAKY], allowed=["math_data.json"])


def test_other_data_is_accepted():
    validate_sources(["llm-adapters:ft-training_set/math_10k.json", "owner/name"], allowed=[])


def test_too_large_an_overlap_is_refused_with_count_and_examples():
    found = {"a": ["a-1"], "b": ["b-1", "b-2", "b-3", "b-4"]}
    sizes = {"a": 100, "b": 10}
    validate_overlap(found, sizes, most=0.4)
    with pytest.raises(
        UserError, match=r"4 of the 10 test rows of b are also .*\(b-1, b-2, b-3, \.\.\.\)"
    ):
        validate_overlap(found, sizes, most=0.1)


def test_a_limit_of_one_disables_the_check():
    validate_overlap({"a": ["x"]}, {"a": 1}, most=1.0)
