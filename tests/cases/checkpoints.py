"""Checkpoints: a damaged one is named, and the one before it is used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.cases.case import (
    NOT_A_MAPPING,
    NOT_TEXT,
    VALID_RUN,
    Case,
    Make,
    both,
    copied,
    cut,
    directory,
    fifo,
    flipped,
    nothing,
    put,
    symlink,
    without,
    written,
)

NEWEST = "run/checkpoints/step-00000004"
FILES = ("adapter.safetensors", "optimizer.safetensors", "random.safetensors", "state.json")
STATE, MANIFEST = f"{NEWEST}/state.json", f"{NEWEST}/manifest.json"
RUN = (
    "recipe=smoke",
    "adapter=lora",
    "output_dir=run",
    "trainer.max_steps=4",
    "trainer.save_every=2",
    "evaluation.limit=1",
    "evaluation.base=false",
)
UNFINISHED = both(copied("run"), without("run/report.json"), without("run/adapter"))


def resumed(name: str, make: Make, line: str = "step-00000002", *words: str) -> Case:
    """A run that was killed, its newest checkpoint changed, resumed with another rank.

    The rank is refused, and the line names the checkpoint that the run would resume from.
    """
    given = (*RUN, "resume=auto", *(words or ("adapter.r=4",)))
    return Case(f"checkpoint: {name}", "train", given, line, both(UNFINISHED, make))


def sealed(make: Make) -> Make:
    """The manifest is made to agree with the files."""

    def seal(folder: Path) -> None:
        make(folder)
        digests = {
            name: hashlib.sha256((folder / NEWEST / name).read_bytes()).hexdigest()
            for name in FILES
        }
        (folder / MANIFEST).write_text(json.dumps(digests))

    return seal


CASES = (
    *(resumed(f"{name} is cut", cut(f"{NEWEST}/{name}")) for name in FILES),
    *(resumed(f"a flipped bit in {name}", flipped(f"{NEWEST}/{name}", 0.7)) for name in FILES),
    *(resumed(f"{name} is absent", without(f"{NEWEST}/{name}")) for name in FILES[:2]),
    resumed("manifest.json is {}", written(MANIFEST, "{}")),
    resumed("manifest.json is binary", written(MANIFEST, NOT_TEXT["binary"])),
    resumed("manifest.json is nested deep", written(MANIFEST, NOT_A_MAPPING["deep"])),
    resumed("manifest.json is absent", without(MANIFEST)),
    resumed("manifest.json is a pipe", fifo(MANIFEST)),
    resumed("a pipe as tensors", fifo(f"{NEWEST}/adapter.safetensors")),
    resumed(
        "a file that is not read", written(f"{NEWEST}/more.pkl", b"\x80\x04."), "step-00000004"
    ),
    resumed("a folder that is empty", directory(NEWEST)),
    resumed("a file in place of the folder", written(NEWEST, "x")),
    resumed("a link to itself", symlink(NEWEST, "step-00000004")),
    resumed("state.json without train", sealed(written(STATE, '{"schema_version": 1}'))),
    resumed("state.json with a field from elsewhere", sealed(put(STATE, train__more=1))),
    resumed("state.json with a text as step", sealed(put(STATE, train__step="four"))),
    resumed("state.json with a negative step", sealed(put(STATE, train__step=-4))),
    resumed("state.json is a list", sealed(written(STATE, "[]"))),
    resumed(
        "tensors without a header, sealed", sealed(written(f"{NEWEST}/adapter.safetensors", b""))
    ),
    resumed("other settings", nothing, "adapter.r"),
    resumed("another seed", nothing, "seed", "seed=2"),
    Case("checkpoint: an unfinished run without resume", "train", RUN, "resume=auto", UNFINISHED),
    Case(
        "checkpoint: a finished run without resume",
        "train",
        RUN,
        "holds a finished run",
        copied("run"),
    ),
    Case(
        "checkpoint: a finished run with other settings",
        "train",
        (*RUN, "resume=auto", "adapter.r=4"),
        "other settings",
        copied("run"),
    ),
    Case(
        "checkpoint: a finished run without its adapter",
        "train",
        (*VALID_RUN.words, "resume=auto"),
        "adapter",
        both(copied("run"), without("run/adapter")),
    ),
    Case(
        "checkpoint: the run's config.yaml is binary",
        "train",
        (*RUN, "resume=auto"),
        "config.yaml",
        both(copied("run"), written("run/config.yaml", NOT_TEXT["binary"])),
    ),
)
