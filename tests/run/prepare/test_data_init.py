"""Data-driven initialization uses the rows of the first steps, the same on every rank."""

from dataclasses import replace

import torch

from toplora_train.adapters.attach import attach_adapter, start_from_data
from toplora_train.run.prepare.data_init import show_rows
from toplora_train.run.prepare.objective import load_base
from toplora_train.run.prepare.run_data import prepare


def started(config, run_data):
    base = load_base(config, run_data.location, run_data.objective.head)
    return attach_adapter(base, config.adapter, seed=config.seed)


def weights(model) -> list[torch.Tensor]:
    return [p.detach() for name, p in model.named_parameters() if "lora_A" in name]


def test_eva_sees_the_rows_of_the_first_steps(make_run):
    config = make_run(adapter="lora")
    config = replace(config, adapter={**config.adapter, "init": "eva"})
    run_data = prepare(config)
    model, again, by_hand = (started(config, run_data) for _ in range(3))
    show_rows(model, config, run_data)
    show_rows(again, config, run_data)
    everything = [run_data.objective.collate(run_data.train)]
    start_from_data(by_hand, config.adapter, everything)
    for found, same, whole, drawn in zip(
        weights(model),
        weights(again),
        weights(by_hand),
        weights(started(config, run_data)),
        strict=True,
    ):
        assert torch.equal(found, same)
        assert not torch.allclose(found, drawn)
        # twenty rows are an epoch of three batches: nearly the directions of all rows at once
        overlap = torch.linalg.svdvals(found @ whole.T)
        assert overlap[0] > 0.95


def test_other_adapters_do_not_change(make_run):
    config = make_run(adapter="lora")
    run_data = prepare(config)
    model = started(config, run_data)
    before = [tensor.clone() for tensor in weights(model)]
    show_rows(model, config, run_data)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
