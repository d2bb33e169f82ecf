"""Roles that Sphinx knows and Markdown does not: shown as the code that they name."""

import re

ROLE = re.compile(r":(?:mod|class|func|meth|data):<code>~?([^<]+)</code>")


def on_page_content(html: str, **_: object) -> str:
    """MkDocs calls this with every page."""
    return ROLE.sub(lambda role: f"<code>{role[1].rpartition('.')[2]}</code>", html)
