"""MkDocs hooks: the reference and the recipes are generated, and Sphinx's roles become code."""

import json
import re
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from griffe import Docstring
from jinja2 import Environment, StrictUndefined
from pydantic import TypeAdapter

from toplora_train.config.schema import RunConfig, SharedAdapterSettings

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "toplora_train"
ROLE = re.compile(r":(?:mod|class|func|meth|data):<code>~?([^<]+)</code>")
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
# The option whose values are shown as defaults; a model, data set or task has its own in each file.
PRESETS = {
    "": "config",
    "optimizer": "optimizer/adamw",
    "trainer": "trainer/default",
    "evaluation": "evaluation/default",
    "tracker": "tracker/wandb",
    "launch": "launch/local",
}


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """A page with ``generated: true`` in its front matter is a Jinja template."""
    if not page.meta.get("generated"):
        return markdown
    template = Environment(undefined=StrictUndefined, trim_blocks=True).from_string(markdown)
    return template.render(sections=sections(), recipes=recipes())


def on_page_content(html: str, **_: object) -> str:
    """A role is shown as the code that it names."""
    return ROLE.sub(lambda role: f"<code>{role[1].rpartition('.')[2]}</code>", html)


def sections() -> dict[str, dict[str, Any]]:
    """Each group of the schema: what it is, and its keys; keys outside groups are under ''."""
    root = TypeAdapter(RunConfig).json_schema()
    groups = {"": root, "adapter": TypeAdapter(SharedAdapterSettings).json_schema()}
    for name, value in root["properties"].items():
        reference = re.search(r"#/\$defs/(\w+)", str(value))
        if reference:
            groups[name] = root["$defs"][reference[1]]
    return {group: _section(group, schema, groups) for group, schema in groups.items()}


def _section(group: str, schema: dict[str, Any], groups: dict[str, Any]) -> dict[str, Any]:
    text, attributes = Docstring(schema["description"], parser="google").parsed
    meanings = {attribute.name: attribute.description for attribute in attributes.value}
    preset = _load(ROOT / "conf" / f"{PRESETS[group]}.yaml") if group in PRESETS else {}
    keys = [
        {
            "name": name,
            "type": _type(value),
            "default": _default(value | ({"default": preset[name]} if name in preset else {})),
            "meaning": meanings[name].replace("\n", " "),
            "used": _used_in(group or "config", name, schema["title"]),
        }
        for name, value in schema["properties"].items()
        if group or name not in groups
    ]
    return {"text": text.value, "keys": keys}


def _type(value: dict[str, Any]) -> str:
    """A JSON schema in words: ``integer ≥ 1 or null``."""
    if "anyOf" in value:
        return " or ".join(_type(choice) for choice in value["anyOf"])
    if "$ref" in value:
        return "mapping"
    if "enum" in value or "const" in value:
        return ", ".join(f"`{word}`" for word in value.get("enum", [value.get("const")]))
    if "prefixItems" in value:
        return " and ".join(_type(item) for item in value["prefixItems"])
    if value["type"] == "array":
        return f"list of {_type(value['items'])}"
    if value.get("additionalProperties") is True:
        return "mapping"
    if value["type"] == "object":
        return f"mapping to {_type(value['additionalProperties'])}"
    bounds = [f"{sign} {value[key]}" for key, sign in BOUNDS.items() if key in value]
    return f"{value['type']} {', '.join(bounds)}".strip()


def _default(value: dict[str, Any]) -> str:
    """As it is written in YAML; a list or mapping that nobody gives is empty."""
    if "default" in value:
        return f"default `{json.dumps(value['default'])}`"
    empty = {"array": "[]", "object": "{}"}.get(value.get("type", ""))
    return f"default `{empty}`" if empty else "required"


def _used_in(group: str, key: str, title: str) -> list[str]:
    """The modules that read ``group.key``, by its name in their source."""
    found = []
    for module, source in _sources().items():
        if f".{key}" in source:
            holder = rf"(?:{group}|settings)" if title in source else group
            if re.search(rf"\b{holder}\.{key}\b", source):
                found.append(module)
    return found


@cache
def _sources() -> dict[str, str]:
    """The package's source, without the schema's own."""
    paths = set(PACKAGE.rglob("*.py")) - {PACKAGE / "config" / "schema.py"}
    return {
        path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(paths)
    }


def recipes() -> list[dict[str, Any]]:
    """Every recipe: its first line, its command, what its comment says, the published scores."""
    return [_recipe(path) for path in sorted((ROOT / "recipes").glob("*.yaml"))]


def _recipe(path: Path) -> dict[str, Any]:
    comment = [
        line.removeprefix("#").removeprefix(" ")
        for line in path.read_text(encoding="utf-8").partition("\ndefaults:")[0].splitlines()[1:]
    ]
    parts = groupby(comment[1:], key=lambda line: line.startswith("  "))
    text = "\n".join(
        "\n".join(["", "```text", *(line[2:] for line in lines), "```", ""] if indented else lines)
        for indented, lines in parts
    )
    return {
        "name": path.stem,
        "title": comment[0],
        "text": text,
        "expected": _load(path).get("expected", []),
    }


def _load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content
