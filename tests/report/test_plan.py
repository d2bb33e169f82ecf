from dataclasses import replace
from io import StringIO

from rich.console import Console

from toplora_train.report.plan import (
    Alternative,
    Comparison,
    Plan,
    readable_bytes,
    render,
    show_plan,
)

PLAN = Plan(
    config={"adapter": {"name": "lora", "r": 8}, "plan": True},
    model="a/model (main)",
    base_parameters=1_000_000,
    trainable={"q_proj": 600, "v_proj": 400},
    rows=90,
    validation_rows=10,
    dropped_rows=3,
    truncated_rows=0,
    steps=12,
    tokens=5000,
    supervised_tokens=500,
    padding_fraction=0.04,
    longest=96,
    memory={"weights": 4_000_000, "adapter": 16_000},
    tests={"arithmetic": 400},
    flops=6e14,
    flops_per_second=2e12,
    example=[("1 + 1", False), ("\n", False), ("2", True), ("<eos>", True)],
)


def shown(plan: Plan = PLAN) -> str:
    console = Console(file=StringIO(), width=100)
    show_plan(plan, console)
    return console.file.getvalue()


def test_the_learned_tokens_stand_in_brackets():
    assert render(PLAN.example).plain == "1 + 1|⏎\n[2|<eos>]"


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


def test_the_configuration_is_shown_without_the_wish_for_a_plan():
    assert "plan:" not in shown()
    assert "r: 8" in shown()


def test_bytes_are_said_in_their_unit():
    assert readable_bytes(512) == "512 B"
    assert readable_bytes(3 * 1024**2) == "3.0 MiB"
    assert readable_bytes(5.5 * 1024**3) == "5.5 GiB"


def test_what_other_adapters_would_cost_is_shown_with_the_reasons_where_there_is_no_number():
    lines = [
        Alternative("lora", 1_234, "8", 1_230, -0.003),
        Alternative("genlora", 5_678, refusal="below the smallest"),
    ]
    text = shown(
        replace(
            PLAN, comparison=Comparison("r = 8", "lora_r8", lines), fit="adapter.budget: r = 7: 9"
        )
    )
    for part in ("r = 8", "(lora_r8)", "1,234", "1,230", "-0.3%", "5,678"):
        assert part in text
    assert "- genlora: below the smallest" in text
    assert "adapter.budget: r = 7: 9" in text


def test_where_the_tokens_came_from_is_told():
    assert "token ids" not in shown()
    assert "from the cache" in shown(replace(PLAN, tokens_from="from the cache"))
