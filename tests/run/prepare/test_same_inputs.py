from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from tests.processes import in_two_processes
from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig
from toplora_train.evaluation.ranks import Ranks
from toplora_train.run.prepare.run_data import prepare
from toplora_train.run.prepare.same_inputs import difference, digests, validate_same_inputs


def test_processes_with_the_same_inputs_do_not_differ(make_run):
    found = digests(prepare(make_run()))
    assert difference([("a", found), ("b", dict(found))]) is None


@pytest.mark.parametrize(
    "name",
    ["base model", "training rows", "tokens", "test rows of arithmetic", "version of torch"],
)
def test_what_differs_is_named_with_both_computers(make_run, name):
    found = digests(prepare(make_run()))
    line = difference([("a", found), ("a", found), ("b", found | {name: "other"})])
    assert line.startswith(f"the processes differ in the {name}: {found[name][:12]} (process 0, a)")
    assert "other (process 2, b)" in line


def test_what_one_process_lacks_is_a_difference():
    assert "in the rows: x (process 0, a) and none (process 1, b)" in difference(
        [("a", {"rows": "x"}), ("b", {})]
    )


def test_a_single_process_compares_nothing():
    validate_same_inputs(SimpleNamespace(), Ranks())


def test_every_process_stops_if_one_has_read_other_rows(make_run, tmp_path: Path):
    assert in_two_processes(tmp_path, read_and_compare, make_run())


def read_and_compare(config: RunConfig) -> None:
    accelerator = Accelerator(cpu=True)
    ranks = Ranks(accelerator.process_index, accelerator.num_processes)
    validate_same_inputs(prepare(config), ranks)
    if not ranks.first:
        config = replace(config, dataset=replace(config.dataset, limit=3))
    with pytest.raises(UserError, match="differ in the training rows"):
        validate_same_inputs(prepare(config), ranks)
