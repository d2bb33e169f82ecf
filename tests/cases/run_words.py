"""Words of the commands that read a run, which is valid."""

from __future__ import annotations

from tests.cases.case import LONG_INTEGER, Case, Make, both, copied, nothing, written

EVAL = ("run=run", "limit=1", "base=false")


def words(command: str, line: str, *given: str, make: Make = nothing, code: int = 2) -> Case:
    """A valid run and words that are not."""
    shown = " ".join(given)[:50]
    return Case(
        f"run: words: {command} {shown!a}", command, given, line, both(copied("run"), make), code
    )


CASES = (
    words("eval", "run is not given"),
    words("eval", "there is no such folder", "run=none"),
    words("eval", "File name too long", "run=" + "x" * 300),
    words("eval", "limit=[ cannot be read", "run=run", "limit=["),
    words("eval", "not KEY=VALUE", "run"),
    words("eval", "not KEY=VALUE", "\x1b[2J"),
    words("eval", "unknown key", "run=run", "tasks=x"),
    words("eval", "given twice", "run=run", "run=run"),
    words("eval", "none_such", *EVAL, "task=[none_such]"),
    words("eval", "task", *EVAL, "task=[../../../../x]"),
    words("eval", "limit", "run=run", "limit=0"),
    words("eval", "limit", "run=run", f"limit={LONG_INTEGER}"),
    words("eval", "batch_size", *EVAL, "batch_size=-1"),
    words("eval", "device must be", *EVAL, "device=tpu"),
    words("eval", "processes", *EVAL, "processes=0"),
    words("eval", "config_dir", *EVAL, "config_dir=none"),
    words("eval", "no effect with it", *EVAL, "rescore=clean"),
    words("eval", "rescore must be one of", "run=run", "rescore=dirty"),
    *(
        words("eval", "name", *EVAL, f"name={name}")
        for name in ("../../../../../x", "/abs", "..", "a/b", "x" * 300, "\x1b[31m")
    ),
    words("export", "give format=lora|merged", "run=run"),
    words("export", "format must be", "run=run", "format=gguf"),
    words("export", "output", "run=run", "format=merged", "output=/"),
    words(
        "export",
        "/proc/x: the export could not",
        "run=run",
        "format=merged",
        "output=/proc/x",
        code=1,
    ),
    words("export", "run", "run=run", "format=merged", "output=run"),
    words(
        "export",
        "mine",
        "run=run",
        "format=merged",
        "output=mine",
        make=written("mine/config.json", "mine"),
    ),
    words("report", "no run given"),
    words("report", "none", "none"),
    words("report", "gain", "run", "gain=nan"),
    words("report", "gain", "run", "gain=-1"),
    words("report", "none_such", "run", "baseline=none_such"),
    words("report", "none_such", "run", "table=none_such"),
    words("report", "table", "run", "table=../../../../etc/passwd"),
    words("report", "output=", "run", "output=/proc/x"),
    words("report", "is not a run directory", "--verbose"),
    words("report", "written to comparison", "run", "run", code=0),
    words("cache", "'x'", "x"),
    words("cache", "is not an age", "clear=all", "older_than=old"),
)
