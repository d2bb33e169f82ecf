"""A profile of real steps: its files, and to which part the operations are counted."""

import gzip
import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.train.test_loop import lora, start_training
from tests.train.test_step import adamw, examples
from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.data.batches import collate
from toplora_train.models.tiny import tiny_model
from toplora_train.run.fit import profile as module
from toplora_train.run.fit.profile import PARTS, StepProfiler, part_of, profiling

CPU = torch.device("cpu")


def test_the_profile_of_a_run_says_where_its_time_goes(tmp_path: Path, monkeypatch):
    settings = adapter_defaults("toplora")[0] | {"target_modules": ["q_proj", "v_proj"]}
    model = attach_adapter(tiny_model(), settings, seed=0)
    said, counted = [], {}

    def spied(event, frozen):
        part = part_of(event, frozen)
        counted.setdefault(part, set()).add(event.name)
        return part

    monkeypatch.setattr(module, "part_of", spied)
    profiler = StepProfiler(tmp_path / "profile", model, CPU, first=1, total=4, say=said.append)
    assert not hasattr(profiler, "_began"), "the first steps are not profiled"
    with profiling(profiler) as after:
        for record in start_training(
            model,
            adamw(model),
            tmp_path / "checkpoints",
            collate=profiler.collating(partial(collate, pad_token_id=0)),
            total_steps=4,
        ):
            after(record.step)
    assert said == [f"profile of steps 3 to 4: {tmp_path / 'profile' / 'summary.md'}"]
    assert set(counted) == set(PARTS)
    assert "aten::mm" in counted["frozen"] & counted["adapter"]
    assert "_FusedLinearBackward" in counted["adapter"]
    assert any("flash_attention" in name for name in counted["attention"])
    assert not any("mm" in name for name in counted["other"]), "every product is counted to a part"

    page = (tmp_path / "profile" / "summary.md").read_text()
    shares = re.findall(r"^\| (?!`)[^|]+\| [^|]+ \| ([\d.-]+)% \|$", page, re.MULTILINE)
    assert len(shares) == len(PARTS) + 1
    assert sum(map(float, shares)) == pytest.approx(100, abs=1)
    (floor,) = re.findall(r"\*\*(\d+)%\*\* of that", page)
    assert 0 <= int(floor) < 100
    with gzip.open(tmp_path / "profile" / "trace.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {"aten::mm", "_FusedLinear", "collate"} <= names


def test_held_out_rows_do_not_count_as_training(tmp_path: Path, monkeypatch):
    counted = []
    flops = module.training_flops
    monkeypatch.setattr(
        module,
        "training_flops",
        lambda lengths, **how: counted.append(sorted(lengths)) or flops(lengths, **how),
    )
    for name, held_out in (("without", []), ("with", examples()[:2])):
        model = lora()
        profiler = StepProfiler(tmp_path / name, model, CPU, first=1, total=4, say=str)
        with profiling(profiler) as after:
            for record in start_training(
                model,
                adamw(model),
                tmp_path / f"{name} checkpoints",
                collate=profiler.collating(partial(collate, pad_token_id=0)),
                total_steps=4,
                validation=held_out,
                eval_every=1,
            ):
                after(record.step)
        page = (tmp_path / name / "summary.md").read_text()
        assert ("includes the validation" in page) == bool(held_out)
    assert counted[0] == counted[1]


def test_a_run_that_ends_in_between_leaves_no_profile(tmp_path: Path):
    profiler = StepProfiler(tmp_path / "p", tiny_model(), CPU, first=5, total=5, say=print)
    with pytest.raises(KeyboardInterrupt), profiling(profiler):  # its only step
        raise KeyboardInterrupt
    assert not (tmp_path / "p").exists()
