"""Runs and adapters of somebody else, given to every command that reads them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.cases.case import (
    DEEP,
    LONG_INTEGER,
    NOT_A_MAPPING,
    NOT_TEXT,
    Case,
    Make,
    both,
    copied,
    cut,
    directory,
    fifo,
    flipped,
    put,
    replaced_text,
    symlink,
    valid,
    without,
    written,
)

CONFIG, REPORT = "run/config.yaml", "run/report.json"
PREDICTIONS = "run/predictions/arithmetic.jsonl"
ADAPTER_CONFIG = "run/adapter/adapter_config.json"
WEIGHTS = "run/adapter/adapter_model.safetensors"
EVAL = ("run=run", "limit=1", "base=false")
START = (
    "recipe=smoke",
    "adapter=lora",
    "adapter.start_from=run/adapter",
    "output_dir=new",
    "trainer.max_steps=1",
    "evaluation.limit=1",
    "evaluation.base=false",
)
RESCORE = ("run=run", "rescore=clean", "name=again")


def evaluated(name: str, make: Make, line: str, *words: str, code: int = 2) -> Case:
    """A changed run, evaluated again."""
    return Case(
        f"run: eval: {name}", "eval", (*EVAL, *words), line, both(copied("run"), make), code
    )


def rescored(name: str, make: Make, line: str) -> Case:
    """A changed run, whose stored outputs are scored again."""
    return Case(f"run: rescore: {name}", "eval", RESCORE, line, both(copied("run"), make))


def exported(name: str, make: Make, line: str, *words: str, code: int = 2) -> Case:
    """A changed run, whose adapter is exported."""
    given = ("run=run", "format=merged", *words)
    return Case(f"run: export: {name}", "export", given, line, both(copied("run"), make), code)


def compared(name: str, make: Make, line: str, *words: str) -> Case:
    """A changed run beside a valid one."""
    return Case(
        f"run: report: {name}",
        "report",
        ("run", "other", *words),
        line,
        both(copied("run"), _other, make),
    )


def _other(folder: Path) -> None:
    shutil.copytree(valid(folder) / "run", folder / "other")
    report = json.loads((folder / "other" / "report.json").read_text())
    report["seed"] = 2
    (folder / "other" / "report.json").write_text(json.dumps(report))


def started(name: str, make: Make, line: str) -> Case:
    """A training run that starts from a changed adapter."""
    return Case(f"adapter: start: {name}", "train", START, line, both(copied("run"), make))


def sealed(make: Make) -> Make:
    """The run's record of its adapter's digests is made to agree with the files."""

    def seal(folder: Path) -> None:
        make(folder)
        file = folder / REPORT
        report = json.loads(file.read_text())
        report["adapter"]["files"] = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (folder / ADAPTER_CONFIG, folder / WEIGHTS)
        }
        file.write_text(json.dumps(report))

    return seal


def tensors(change: Callable[[dict], object]) -> Make:
    """The adapter's tensors, changed in place by the function."""

    def make(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS, metadata={"format": "pt"})

    return make


def first(value: Callable[[torch.Tensor], torch.Tensor]) -> Make:
    """The first tensor replaced."""
    return tensors(lambda found: found.update({min(found): value(found[min(found)])}))


WRONG_TENSORS = (
    ("a NaN", first(lambda t: torch.full_like(t, float("nan"))), "NaN or infinity"),
    ("an infinity", first(lambda t: torch.full_like(t, float("inf"))), "NaN or infinity"),
    ("int8", first(lambda t: t.to(torch.int8)), "not floating point"),
    ("a missing tensor", tensors(lambda found: found.pop(min(found))), "adapter"),
    (
        "a tensor too many",
        tensors(lambda found: found.update(more=torch.zeros(1))),
        "adapter_model.safetensors",
    ),
    ("another shape", first(lambda _: torch.zeros(3, 3)), "adapter"),
)
WRONG_FILES = (
    ("empty weights", written(WEIGHTS, b""), "adapter_model.safetensors"),
    ("cut weights", cut(WEIGHTS), "adapter_model.safetensors"),
    ("weights cut in their header", cut(WEIGHTS, 0.01), "adapter_model.safetensors"),
    ("a damaged header", flipped(WEIGHTS, 0), "adapter_model.safetensors"),
    ("a config that is []", written(ADAPTER_CONFIG, "[]"), "adapter_config.json"),
    ("a config that is {}", written(ADAPTER_CONFIG, "{}"), "adapter_config.json"),
    ("a config nested deep", written(ADAPTER_CONFIG, DEEP), "adapter_config.json"),
    ("a list as peft_type", put(ADAPTER_CONFIG, peft_type=["LORA"]), "peft_type"),
    ("an unknown peft_type", put(ADAPTER_CONFIG, peft_type="ABACUS"), "ABACUS"),
    ("another method's name", put(ADAPTER_CONFIG, peft_type="TOPLORA"), "adapter"),
    ("r of 10^9", put(ADAPTER_CONFIG, r=10**9), "adapter_config.json: r is"),
    ("r as text", put(ADAPTER_CONFIG, r="eight"), "adapter_config.json"),
    ("r of 0", put(ADAPTER_CONFIG, r=0), "adapter"),
    (
        "a rank pattern of 10^9",
        put(ADAPTER_CONFIG, rank_pattern={"q_proj": 10**9}),
        "adapter_config.json",
    ),
    (
        "a broken regular expression",
        put(ADAPTER_CONFIG, target_modules="((("),
        "not a regular expression",
    ),
    (
        "a regular expression that takes forever",
        put(ADAPTER_CONFIG, target_modules="(.+)+_none"),
        "takes longer than 20 s",
    ),
    ("targets that are absent", put(ADAPTER_CONFIG, target_modules=["nothing"]), "adapter"),
    (
        "layer_replication",
        put(ADAPTER_CONFIG, layer_replication=[[0, 2]]),
        "layer_replication is not supported",
    ),
    ("an unknown bias", put(ADAPTER_CONFIG, bias="some"), "unknown bias"),
    ("alpha as a list", put(ADAPTER_CONFIG, lora_alpha=[16]), "adapter"),
    ("a field from elsewhere", put(ADAPTER_CONFIG, no_such_field=1), "no_such_field"),
)
ADAPTERS = (
    *(
        evaluated(f"adapter with {name}", sealed(make), line)
        for name, make, line in (*WRONG_TENSORS, *WRONG_FILES)
    ),
    *(started(name, make, line) for name, make, line in (*WRONG_TENSORS, *WRONG_FILES)),
    started("a pipe as weights", fifo(WEIGHTS), "adapter_model.safetensors"),
    started("a pipe as config", fifo(ADAPTER_CONFIG), "adapter_config.json"),
    started(
        "a pickle",
        both(without(WEIGHTS), written("run/adapter/adapter_model.bin", b"\x80\x04.")),
        "adapter_model.safetensors",
    ),
    started("no config", without(ADAPTER_CONFIG), "adapter"),
    started("no folder", without("run/adapter"), "run/adapter"),
    *(
        exported(f"adapter with {name}", sealed(make), line)
        for name, make, line in WRONG_TENSORS[:4]
    ),
    *(
        command(f"an unsealed adapter: {name}", make, line)
        for command in (evaluated, exported)
        for name, make, line in (
            ("other weights", first(torch.zeros_like), "adapter_model.safetensors"),
            ("another config", put(ADAPTER_CONFIG, lora_alpha=32), "adapter_config.json"),
            (
                "another base",
                put(ADAPTER_CONFIG, base_model_name_or_path="x/y"),
                "trained on x/y",
            ),
            ("no weights", without(WEIGHTS), "adapter"),
            ("no folder", without("run/adapter"), "adapter"),
        )
    ),
    evaluated(
        "another base under its name",
        sealed(put(ADAPTER_CONFIG, base_model_name_or_path="x/y")),
        "x/y",
    ),
)
CONFIGS = (
    *(
        evaluated(f"config.yaml is {kind}", written(CONFIG, content), "config.yaml")
        for kind, content in (NOT_TEXT | NOT_A_MAPPING).items()
    ),
    evaluated("config.yaml is absent", without(CONFIG), "is not a run directory"),
    evaluated("config.yaml is a pipe", fifo(CONFIG), "config.yaml"),
    evaluated("config.yaml is a folder", directory(CONFIG), "config.yaml"),
    evaluated("config.yaml is a link to a device", symlink(CONFIG, "/dev/zero"), "config.yaml"),
    evaluated(
        "config.yaml has a Python object",
        written(CONFIG, "a: !!python/object/apply:os.system ['touch ../x']\n"),
        "config.yaml",
    ),
    evaluated(
        "config.yaml has another key",
        lambda f: (f / CONFIG).write_text((f / CONFIG).read_text() + "more: 1\n"),
        "config.yaml",
    ),
    evaluated(
        "a seed of 5,000 digits",
        replaced_text(CONFIG, "\nseed: 1\n", f"\nseed: {LONG_INTEGER}\n"),
        "config.yaml",
    ),
    *(
        evaluated(
            f"a task called {name!a}"[:60],
            replaced_text(
                CONFIG,
                "\n  arithmetic:\n    name: arithmetic\n",
                f"\n  {json.dumps(name)}:\n    name: {json.dumps(name)}\n",
            ),
            "config.yaml",
        )
        for name in (
            "../../../../x",
            "/abs/x",
            "..",
            ".",
            "",
            "a/b",
            "a\\b",
            "x" * 300,
            "\x1b[2J",
            "a\nb",
            ".hidden/../..",
        )
    ),
    evaluated(
        "a source above its folder",
        replaced_text(CONFIG, "bundled:arithmetic/test.jsonl", "bundled:../../../../etc/passwd"),
        "bundled",
    ),
    evaluated(
        "a model that is absent",
        both(
            replaced_text(CONFIG, "  builtin: tiny", "  builtin: null"),
            replaced_text(CONFIG, "  path: null", "  path: /nonexistent"),
        ),
        "/nonexistent",
    ),
)
REPORTS = (
    *(
        command(f"report.json is {kind}", written(REPORT, content), "report.json")
        for command in (evaluated, exported, compared)
        for kind, content in (NOT_TEXT | NOT_A_MAPPING).items()
        if command is compared or kind in ("binary", "list", "deep")
    ),
    *(
        compared(name, make, line)
        for name, make, line in (
            ("report.json is {}", written(REPORT, "{}"), "report.json"),
            ("no train", put(REPORT, train=None), "report.json"),
            ("a text as train", put(REPORT, train="fast"), "report.json"),
            ("a text as value", put(REPORT, tasks__arithmetic__value="high"), "report.json"),
            ("NaN as value", put(REPORT, tasks__arithmetic__value=float("nan")), "report.json"),
            ("an accuracy of 7", put(REPORT, tasks__arithmetic__value=7.0), "report.json"),
            ("a task called ../x", put(REPORT, tasks={"../../../../x": {}}), "report.json"),
            ("a list of tasks", put(REPORT, tasks=[]), "report.json"),
            ("another schema", put(REPORT, schema_version=99), "schema version"),
            ("a failed run", put(REPORT, status="failed"), "run"),
            ("report.json is a pipe", fifo(REPORT), "report.json"),
            ("report.json is a folder", directory(REPORT), "report.json"),
            ("report.json is absent", without(REPORT), "run"),
            ("a seed of 2^70", put(REPORT, seed=2**70), "report.json"),
            ("no predictions", without(PREDICTIONS), "arithmetic.jsonl"),
            ("a pipe as predictions", fifo(PREDICTIONS), "arithmetic.jsonl"),
        )
    ),
)
ROW = (
    '{"id": "test-1", "prompt": "p", "output": "o", "prediction": null, "label": "51", '
    '"correct": %s}\n'
)
PREDICTED = (
    *(
        command(f"predictions are {kind}", written(PREDICTIONS, content), "arithmetic.jsonl")
        for command in (rescored, compared)
        for kind, content in (NOT_TEXT | NOT_A_MAPPING).items()
        if kind != "empty" and (command is rescored or kind in ("binary", "deep"))
    ),
    *(
        rescored(name, written(PREDICTIONS, content), "arithmetic")
        for name, content in (
            ("correct is a text", ROW % '"yes"'),
            ("correct is 1", ROW % "1"),
            ("correct is twice", ROW % 'true, "correct": false'),
            ("a field from elsewhere", ROW % 'true, "x": 1'),
            ("fewer rows than the report", ROW % "true"),
            ("a row twice", (ROW % "true") * 2),
            ("a cut line", (ROW % "true")[:-9]),
        )
    ),
    rescored("predictions are absent", without(PREDICTIONS), "arithmetic.jsonl"),
    rescored("a pipe as predictions", fifo(PREDICTIONS), "arithmetic.jsonl"),
)
CASES = (*ADAPTERS, *CONFIGS, *REPORTS, *PREDICTED)
