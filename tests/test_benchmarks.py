"""The benchmarks of steps and memory run, and the counted goals hold; nothing is timed."""

import importlib.util
import json
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import peft
import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_adapted_layer_moves_little_memory_beyond_the_frozen_one(monkeypatch):
    """Goals in passes over T x d 16-bit numbers: TopLoRA's, LoRA's; PEFT's LoRA for comparison."""
    counting = script("memory_passes")
    wanted = ("PEFT LoRA", "LoRA", "TopLoRA")
    monkeypatch.setattr(counting, "METHODS", {name: counting.METHODS[name] for name in wanted})
    monkeypatch.setattr(counting, "SETTINGS", counting.SETTINGS[:5])
    goals = [(9.5, 9), (13, 12), (12, 12), (16, 15), (19, 18)]
    for line, (toplora, lora) in zip(counting.measure(1024, 2048, 8), goals, strict=True):
        assert line["TopLoRA"]["passes"] <= toplora < line["PEFT LoRA"]["passes"]
        assert line["LoRA"]["passes"] <= lora
        if not line["dropout"]:
            assert line["LoRA"]["operations"] <= line["PEFT LoRA"]["operations"]


def test_a_step_of_every_method_is_measured_on_the_same_tokens(tmp_path, capsys, monkeypatch):
    steps, out = script("adapter_step"), tmp_path / "out.json"
    case = "tiny:qkv:8:0:float32/float32"
    arguments = ["", "--cases", case, "--tokens", "256", "--repeats", "1", "--out", str(out)]
    monkeypatch.setattr("sys.argv", arguments)
    steps.main()
    found = json.loads(out.read_text())["cases"][case]
    assert set(found["ms"]) == {"base", "base again", *steps.METHODS}
    losses = found["losses"]
    assert losses["LoRA"] == pytest.approx(losses["PEFT LoRA"], rel=1e-6)
    assert losses["TopLoRA"] == pytest.approx(losses["TopLoRA composed"], rel=1e-6)
    assert losses["LoRA"] != losses["base"] != losses["TopLoRA"]
    assert capsys.readouterr().out


def test_a_gpus_memory_is_simulated_for_every_method(capsys, monkeypatch):
    steps, case = script("adapter_step"), "tiny:qkv:8:0.05:bfloat16/float32"
    words = [
        "",
        "--cases",
        case,
        "--simulate",
        "--size",
        "16",
        "64",
        "--methods",
        "PEFT LoRA",
        "LoRA",
    ]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(steps, "SHAPES", {"tiny": (300, 1024, 2048, 3, 8, 8)})
    steps.main()
    name, found = capsys.readouterr().out.split(" ", 1)
    memory = json.loads(found)
    assert name == case
    assert memory["base"] <= memory["LoRA"] < memory["PEFT LoRA"]


def test_a_long_runs_counters_are_read(tmp_path, capsys, monkeypatch):
    soak = script("soak")
    monkeypatch.setattr(soak, "SECONDS", 0.05)
    words = ["--folder", str(tmp_path), "--steps", "40", "trainer.batch_size=1"]
    monkeypatch.setattr("sys.argv", ["", *words])
    soak.main()
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 40
    for sample in found["at"]:
        assert sample["memory"] > 50 * 2**20
        assert min(sample[name] for name in ("open_files", "threads", "files")) > 0


def test_tenslora_contracted_has_the_gradients_of_the_materialised_form(tmp_path, monkeypatch):
    bench, out = script("tenslora"), tmp_path / "out.json"
    shape = ["--d", "24", "--layers", "3", "--heads", "4", "--r", "3", "--tokens", "5"]
    monkeypatch.setattr("sys.argv", ["", *shape, "--repeats", "1", "--out", str(out)])
    bench.main()
    cases = json.loads(out.read_text())["cases"]
    assert set(cases) == {f"{construction}:5" for construction in bench.CONSTRUCTIONS}
    assert all(found["contracted error"] < 1e-5 for found in cases.values())
    exact = bench.Updates("att_qkv_depth", d=24, layers=3, heads=4, r=3, tokens=5, device="cpu")
    exact.to(torch.float64)
    exact.run(bench.contracted)
    ours = exact.gradients()
    exact.run(bench.materialised)
    torch.testing.assert_close(ours, exact.gradients(), rtol=1e-12, atol=1e-12)
    assert {found["parameters"] for found in cases.values()} > {3 * 24 * 2 + 3 * 3 + 3 * 3 + 81}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is Linux's account")
def test_an_epoch_has_the_losses_of_transformers_trainer(tmp_path):
    epoch, rows = script("epoch"), tmp_path / "rows.jsonl"
    row = {"instruction": "Say it again.", "output": "it"}
    rows.write_text("\n".join([json.dumps(row)] * 4))
    overrides = ["optimizer.schedule=constant"]
    arguments = Namespace(model="tiny", dtype="float32", train=rows, rows=4, overrides=overrides)
    reference = epoch.trainer(arguments, tmp_path / "trainer")
    assert reference["rows"] == 4
    assert reference["largest_loss_difference"] < 1e-5
    ours = epoch.ours(arguments, tmp_path / "ours")
    assert set(ours) == {"processor_s", "clock_s", "peak_mib_above", "page_faults"} < set(reference)


def test_attention_is_measured_by_every_kernel_that_computes_it(capsys, monkeypatch):
    words = ["", "--rows", "1", "--heads", "1", "--from", "8", "--long", "16"]
    monkeypatch.setattr("sys.argv", words)
    script("attention").main()
    found = json.loads(capsys.readouterr().out)["ms"]
    assert set(found) == {"with a mask", "causal"}
    assert all(set(of_each["math"]) == {"new", "same", "long"} for of_each in found.values())


@pytest.mark.slow
def test_the_page_of_pefts_methods_is_what_is_found_now():
    found, page = script("peft_methods").page(), FOLDER.parent / "docs/adapters/peft_methods.md"
    if f"PEFT {peft.__version__}" not in page.read_text(encoding="utf-8"):
        pytest.skip("the page is of another PEFT")
    assert found == page.read_text(encoding="utf-8")


def test_a_mean_over_tasks_with_different_metrics_is_a_score():
    results, two = script("results"), {"a": {"metric": "accuracy", "n": 3}}
    assert results.metric({"tasks": two}) == "accuracy, n 3"
    two["b"] = {"metric": "matthews", "n": 4}
    assert results.metric({"tasks": two}) == "score of 2 tasks, n 7"


def test_the_published_tables_are_those_of_the_archived_studies(checkout: Path):
    results = script("results")
    pages = [checkout / "README.md", checkout / "docs" / "results.md"]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    assert [results.filled(text) for text in texts] == texts
    used = {
        path
        for text in texts
        for found in results.BLOCK.finditer(text)
        for name in found["studies"].split()
        for path in results.archives(name)
    }
    assert used == {*results.STUDIES.glob("*.json")}
