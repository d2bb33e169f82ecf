"""Plain LoRAs combined by fixed weights: what the result computes, and that it is a run."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from tests.adapters.test_contract import attached
from tests.report.made_up import made_up_report
from tests.run.conftest import tiny_run
from toplora_train.adapters.describe import describe_adapter
from toplora_train.adapters.saving import load_adapter, read_adapter_config, save_adapter
from toplora_train.adapters.updates import adapted_layers, thin_factors
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import read_config, write_config
from toplora_train.contract.subject import logits, shaken
from toplora_train.models.tiny import tiny_model
from toplora_train.report.record import ReportAdapter, ReportModel, completed_report, write_report
from toplora_train.run.fuse import Combination, fuse
from toplora_train.run.prepare.adapted_model import load_adapted

COMMAND = "toplora-fuse in a test"


@pytest.fixture
def make(tmp_path: Path):
    """A finished run with a trained adapter."""

    def finished(run: str, adapter: str = "lora", seed: int = 1, **settings) -> Path:
        folder = tmp_path / run
        model = shaken(attached(adapter, **settings), seed=seed)
        save_adapter(model, folder / "adapter")
        write_config(tiny_run(folder, adapter), folder / "config.yaml")
        described = ReportAdapter(name=adapter, settings={}, **describe_adapter(model))
        base = ReportModel(tiny_model().name_or_path, "built in", 1_000, "float32")
        write_report(folder / "report.json", made_up_report(adapter=described, model=base))
        return folder

    return finished


def deltas(folder: Path) -> dict[str, torch.Tensor]:
    """The adapter's change of every weight."""
    model = load_adapter(tiny_model(), folder / "adapter")
    found = {name: thin_factors(layer, "default") for name, layer in adapted_layers(model).items()}
    return {name: B @ A for name, (A, B) in found.items()}


def test_cat_is_the_weighted_sum_of_the_updates_at_any_rank_and_scaling(make, tmp_path: Path):
    one = make("one", r=4, use_rslora=True)
    two = make("two", seed=2, r=2, alpha=3, target_modules=["q_proj", "down_proj"])
    three = make("three", seed=3, rank_pattern={"k_proj": 2})
    weights = [0.7, -0.4, 1.3]
    runs = [one, two, three]
    assert fuse(runs, Combination("cat", weights), tmp_path / "out", command=COMMAND) == 0.0
    parts = [deltas(run) for run in runs]
    found = deltas(tmp_path / "out")
    assert set(found) == set().union(*parts)
    for name, delta in found.items():
        present = [(w, part[name]) for w, part in zip(weights, parts, strict=True) if name in part]
        expected = sum(w * part for w, part in present)
        torch.testing.assert_close(delta, expected, atol=1e-6, rtol=1e-6)


def test_linear_adds_the_matrices_so_that_one_run_twice_is_itself(make, tmp_path: Path):
    one, two = make("one"), make("two")  # of the same seed
    out = tmp_path / "out"
    fuse([one, two], Combination("linear", [0.5, 0.5]), out, command=COMMAND)
    once, found = deltas(one), deltas(out)
    for name, delta in found.items():
        torch.testing.assert_close(delta, 2 * once[name])  # of A and of B, sqrt(1/2) twice


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties"])
def test_a_trimmed_combination_is_a_run_that_peft_loads_by_itself(method, make, tmp_path: Path):
    runs, out = [make("one"), make("two", seed=2)], tmp_path / "out"
    fuse(runs, Combination(method, [0.5, 0.5], 0.5), out, command=COMMAND)
    fuse(runs, Combination(method, [0.5, 0.5], 0.5), tmp_path / "again", command=COMMAND)
    saved = read_adapter_config(out / "adapter")
    assert (saved["peft_type"], saved["r"], saved["lora_alpha"]) == ("LORA", 8, 8)
    model, _ = load_adapted(read_config(out / "config.yaml"), out)
    by_peft = logits(PeftModel.from_pretrained(tiny_model(), out / "adapter"))
    torch.testing.assert_close(by_peft, logits(model), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(logits(model), logits(tiny_model()))
    again, _ = load_adapted(read_config(tmp_path / "again" / "config.yaml"), tmp_path / "again")
    assert torch.equal(logits(again), logits(model))  # DARE's draws come from the seed
    card = (out / "adapter" / "README.md").read_text()
    assert "# lora adapter for toplora-train/tiny" in card and "not trained itself" in card
    report = completed_report(out)
    assert report["train"]["steps"] == 0
    assert report["data"]["rows"] == 2 * 3000
    assert report["notes"] == [
        f"Fused, not trained, from {runs[0]}, {runs[1]} ({method}, weights 0.5, 0.5, density 0.5)."
    ]


def test_what_does_not_combine_is_refused_by_its_run(make, tmp_path: Path):
    one, out = make("one"), tmp_path / "out"

    def refuse(message: str, *others: Path, method: str = "ties") -> None:
        how = Combination(method, [0.5] * (len(others) + 1), 0.5)
        with pytest.raises(UserError, match=message):
            fuse([one, *others], how, out, command=COMMAND)
        assert not out.exists()

    refuse("two is a TOPLORA adapter, and method=cat .*flow", make("two", "toplora"), method="cat")
    refuse("three is a DORA adapter", make("three", "dora"))
    refuse("one has rank 8 and .*four rank 4, .*method=cat", make("four", r=4))
    refuse("five has modules of different ranks", make("five", rank_pattern={"k_proj": 2}))
    refuse("needs two or more different runs")
    empty = make("empty")
    (empty / "adapter" / "adapter_config.json").unlink()
    refuse("empty has no adapter_config.json; give a finished run", empty)


def test_cat_keeps_the_modules_of_every_run_in_any_order(make, tmp_path: Path):
    whole = make("whole")
    for number, (key, value) in enumerate(
        {
            "layers_to_transform": [0],
            "exclude_modules": ["v_proj"],
            "target_modules": ["q_proj"],
        }.items()
    ):
        some = make(f"some{number}", seed=2, **{key: value})
        parts = [deltas(whole), deltas(some)]
        for order in ([some, whole], [whole, some]):
            out = tmp_path / f"{number}{order[0].name}"
            fuse(order, Combination("cat", [1.0, 1.0]), out, command=COMMAND)
            found = deltas(out)
            assert set(found) == set(parts[0])
            for name, delta in found.items():
                expected = sum(part[name] for part in parts if name in part)
                torch.testing.assert_close(delta, expected, atol=1e-6, rtol=1e-6)
