from tests.evaluation.sets import eval_set
from toplora_train.evaluation.protocol import find_protocol


def test_a_legacy_protocol_sets_max_new_tokens():
    assert eval_set([], max_new_tokens=9).token_limit == 9
    legacy = find_protocol("legacy.toplora")
    assert eval_set([], max_new_tokens=9, protocol=legacy).token_limit == legacy.max_new_tokens
