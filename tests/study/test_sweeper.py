"""Hydra's sweep without its validation of every job before the first."""

from hydra.core.override_parser.overrides_parser import OverridesParser

from toplora_train.study.sweeper import Combinations


def test_every_combination_is_a_job_and_none_is_validated():
    parsed = OverridesParser.create().parse_overrides(["a=1,2", "b=x"])
    (batch,) = Combinations.split_arguments(parsed, max_batch_size=None)
    assert batch == [["a=1", "b=x"], ["a=2", "b=x"]]
    Combinations(max_batch_size=None).validate_batch_is_legal([["no.such.key=1"]])
