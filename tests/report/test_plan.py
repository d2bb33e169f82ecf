from dataclasses import replace
from io import StringIO

from rich.console import Console

from toplora_train.report.plan import (
    Alternative,
    Comparison,
    DeviceMemory,
    Parameters,
    Plan,
    RunInput,
    Tokens,
    Work,
    readable_bytes,
    render,
    show_plan,
)

PARAMETERS = Parameters("a/model (main)", 1_000_000, {"q_proj": 600, "v_proj": 400})
TOKENS = Tokens(
    total=5000,
    supervised=500,
    longest=96,
    padding_fraction=0.04,
    dropped_rows=3,
    truncated_rows=0,
    examples=[[("1 + 1", False), ("\n", False), ("2", True), ("<eos>", True)]],
)
WORK = Work(
    device="a-device (4 GB)",
    flops=6e14,
    flops_per_second=2e12,
    speed_from="measured now",
    memory=[
        DeviceMemory("1 device", {"weights": 4_000_000, "adapter": 16_000}, 4_000_400),
        DeviceMemory("8, ddp", {"weights": 4_000_000, "adapter": 20_000}, 4_000_400),
    ],
)
PLAN = Plan(
    config={"adapter": {"name": "lora", "r": 8}, "plan": True},
    inputs=[
        RunInput("model", "a/model", at_hand=True, place="/models/a"),
        RunInput("test rows of boolq", "llm-adapters:boolq", at_hand=False, rows=3270, size=2048),
    ],
    rows=90,
    validation_rows=10,
    steps=12,
    tests={"arithmetic": 400, "boolq": None},
    parameters=PARAMETERS,
    tokens=TOKENS,
    work=WORK,
)


def shown(plan: Plan = PLAN) -> str:
    console = Console(file=StringIO(), width=100)
    show_plan(plan, console)
    return console.file.getvalue()


def test_supervised_tokens_are_in_brackets():
    assert render(TOKENS.examples[0]).plain == "1 + 1|⏎\n[2|<eos>]"


def test_every_number_of_the_plan_is_shown():
    text = shown()
    for part in ["1,000", "0.100% of the base", "12", "5,000", "500 (10.0%)", "4.0%", "96 tokens"]:
        assert part in text, part
    assert "600 TFLOP" in text
    assert "at least (at 2 TFLOP/s, measured now)" in text
    assert "5 min 0 s" in text
    assert "rows dropped (too long)" in text
    assert "truncated" not in text
    assert "3.8 MiB" in text


def test_the_configuration_is_shown_without_the_plan_key():
    assert "plan:" not in shown()
    assert "r: 8" in shown()


def test_bytes_have_a_suitable_unit():
    assert readable_bytes(512) == "512 B"
    assert readable_bytes(3 * 1024**2) == "3.0 MiB"
    assert readable_bytes(5.5 * 1024**3) == "5.5 GiB"


def test_local_and_missing_inputs_are_listed_separately_with_details():
    here, missing = shown().split("To be downloaded")
    assert "model: a/model, /models/a" in here
    assert "llm-adapters:boolq; 3,270 rows, 2.0 KiB, licence unknown" in missing
    gated = RunInput("model", "b/c", at_hand=False, url="https://hub/b/c", gated=True, licence="x")
    text = shown(replace(PLAN, inputs=[gated]))
    assert "b/c; size unknown, licence x, gated: request access at https://hub/b/c" in text
    assert "Available locally" not in text


def test_unknown_values_are_reported_as_unknown():
    text = shown(replace(PLAN, rows=None, steps=None, tokens=None, work=None, unknown=["Not yet."]))
    assert text.count("unknown") == 4  # rows, steps, the rows of boolq, its licence
    assert "Not yet." in text
    assert "TFLOP" not in text
    assert "token by token" not in text


def test_memory_is_compared_with_the_device_and_impossible_settings_have_a_reason():
    columns = [*WORK.memory, DeviceMemory("8, fsdp2", {}, 0, refusal="not with this")]
    work = replace(WORK, memory=columns, capacity=4_018_000.0, command="train launch=ddp")
    text = shown(replace(PLAN, work=work))
    verdict = next(line for line in text.splitlines() if " of 3.8 MiB" in line)
    assert verdict.split()[-4:] == ["fits", "does", "not", "fit"]
    assert "- 8, fsdp2: not with this" in text
    assert "On several devices: train launch=ddp" in text


def test_a_step_that_cannot_be_simulated_has_no_memory_but_a_reason():
    text = shown(replace(PLAN, work=replace(WORK, memory=[], unknown="KeyError: 'a value'")))
    assert "memory is unknown: a step cannot be simulated (KeyError: 'a value')" in text
    assert "FLOPs" in text or "TFLOP" in text


def test_an_upper_bound_is_called_one_and_shown_with_the_utilisation():
    work = replace(WORK, bound="every row at 64 tokens", speed_from="published peak")
    text = shown(replace(PLAN, work=replace(work, utilisation=0.4)))
    assert "matrix products, at most" in text
    assert "at least (at" not in text
    assert "upper bounds: every row at 64 tokens." in text
    assert "12 min 30 s" in next(line for line in text.splitlines() if "40 % utilisation" in line)


def test_sizes_of_other_adapters_are_shown_with_reasons_for_missing_numbers():
    lines = [
        Alternative("lora", 1_234, "8", 1_230, -0.003),
        Alternative("genlora", 5_678, refusal="below the smallest"),
    ]
    comparison = Comparison("r = 8", "lora_r8", lines)
    parameters = replace(PARAMETERS, comparison=comparison, fit="adapter.budget: r = 7: 9")
    text = shown(replace(PLAN, parameters=parameters))
    for part in ("r = 8", "(lora_r8)", "1,234", "1,230", "-0.3%", "5,678"):
        assert part in text
    assert "- genlora: below the smallest" in text
    assert "adapter.budget: r = 7: 9" in text


def test_the_origin_of_the_tokens_is_shown():
    assert "token ids" not in shown()
    tokens = replace(TOKENS, source="from the cache")
    assert "from the cache" in shown(replace(PLAN, tokens=tokens))
