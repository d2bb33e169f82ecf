"""The gate for names that become part of a path: tasks, options, evaluations."""

from __future__ import annotations

LONGEST = 128  # bytes; the file system allows 255, and suffixes are added


def plain_name(name: str) -> str:
    """Return the name if it is safe as a part of a path, otherwise raise.

    Names reach paths when a run is written and when one is read, which may be a stranger's. So this
    is part of the schema (:mod:`toplora_train.config.schema`), and reports are checked by it too.

    Raises:
        ValueError: It could leave its folder, hide, or not be a file's name; says what is allowed.
    """
    if (
        not name.strip()
        or name.startswith(".")
        or any(character in "/\\" or not character.isprintable() for character in name)
        or len(name.encode(errors="replace")) > LONGEST
    ):
        raise ValueError(
            f"must be a plain name, without folders and of at most {LONGEST} characters"
        )
    return name
