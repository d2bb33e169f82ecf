"""The page of ``--help``."""

import io

from rich.console import Console

from toplora_train.config.help import installed_version, show_help
from toplora_train.config.locate import description, groups, options


def page(width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_help(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_page_names_every_option_of_every_group():
    text = page(120)
    for group in groups():
        assert f"{group}=" in text
        for name in options(group):
            assert name in text


def test_examples_are_not_wrapped_in_a_narrow_terminal():
    examples = [line for line in page(200).splitlines() if line.startswith("  toplora-train ")]
    assert len(examples) > 5
    assert {*examples} <= {*page(60).splitlines()}


def test_the_version_is_known_or_reported_as_unknown():
    assert installed_version()[0].isdigit() or "checkout" in installed_version()


def test_no_description_is_cut_off_mid_sentence():
    texts = [description(o.path) for group in groups() for o in options(group).values()]
    assert "for quick tests on the same tasks." in " ".join(texts)
    for text in texts:
        assert text.count("(") == text.count(")")
        assert not text.endswith((":", ",", " the", " by", " with", " larger"))
        assert "How many" not in text, "an example"
