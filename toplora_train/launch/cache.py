"""The command ``toplora-cache``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from toplora_train.config.arguments import Key, parse_arguments, show_usage
from toplora_train.config.cache import (
    KINDS,
    Entry,
    clear,
    find_entries,
    parse_age,
    tokens_limit,
)
from toplora_train.config.errors import UserError
from toplora_train.config.folders import cache_folder
from toplora_train.launch.command import run_words

COMMAND = "toplora-cache"
PURPOSE = (
    "Show the contents of the cache folder (converted models, tokenized rows, downloaded data), "
    "or\nclear it: everything is recreated when it is needed again. Tokens are kept within\n"
    "TOPLORA_CACHE_LIMIT (10 GiB by default), least recently used first out; TOPLORA_CACHE sets "
    "the\nfolder."
)
KEYS = (
    Key("clear", "what to remove", choices=(*KINDS, "all")),
    Key("older_than", "only what was last used longer ago: 30d, 12h, 2w"),
)
MEANS = {"models": "converted models", "tokens": "tokenized rows", "data": "downloaded data"}


def main() -> int:
    """``toplora-cache``: returns the exit code."""
    return run_words(_cache, show_usage(COMMAND, PURPOSE, KEYS))


def _cache(words: list[str]) -> None:
    given = parse_arguments(words, KEYS, command=COMMAND)
    if "clear" not in given:
        if "older_than" in given:
            raise UserError(
                "older_than limits what is cleared; give clear=" + "|".join((*KINDS, "all"))
            )
        _show(find_entries())
        return
    from toplora_train.report.numbers import counted, memory

    kinds = list(KINDS) if given["clear"] == "all" else [given["clear"]]
    age = parse_age(given["older_than"]) if "older_than" in given else 0.0
    removed = clear(kinds, older_than=age)
    freed = memory(sum(entry.size for entry in removed))
    entries = counted(len(removed), "entry", "entries")
    print(f"removed {entries}, {freed}, from {cache_folder()}")


def _show(entries: Sequence[Entry]) -> None:
    from rich.console import Console

    from toplora_train.report.numbers import counted, memory

    console, now = Console(highlight=False, soft_wrap=True), time.time()
    console.print(f"{cache_folder()}: {memory(sum(entry.size for entry in entries))}", markup=False)
    for kind in KINDS:
        of_kind = [entry for entry in entries if entry.kind == kind]
        size = memory(sum(entry.size for entry in of_kind))
        limit = f" of at most {memory(tokens_limit())}" if kind == "tokens" else ""
        shown = [entry for entry in of_kind if entry.left or kind != "tokens"]
        console.print(
            f"{kind} ({MEANS[kind]}): {counted(len(of_kind), 'entry', 'entries')}, ", end=""
        )
        console.print(f"{size}{limit}{_ages(of_kind, now) if kind == 'tokens' else ''}")
        for entry in shown:
            name = str(entry.path.relative_to(cache_folder()))
            what = "left by a killed process" if entry.left else f"used {_ago(now - entry.used)}"
            console.print(f"  {memory(entry.size):>9}  {name}, {what}", markup=False)


def _ages(entries: Sequence[Entry], now: float) -> str:
    if not entries:
        return ""
    newest, oldest = _ago(now - entries[0].used), _ago(now - entries[-1].used)
    return f", used {newest}" + (f", the oldest {oldest}" if oldest != newest else "")


def _ago(seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for size, unit in ((24 * 3600, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'' if number == 1 else 's'} ago"
    return "just now"


if __name__ == "__main__":
    sys.exit(main())
