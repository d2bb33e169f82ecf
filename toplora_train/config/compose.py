"""Composition with Hydra: preparing it, and turning its result into a :class:`RunConfig`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from toplora_train.config.adapter import Blame
from toplora_train.config.by_task import register_by_task
from toplora_train.config.check import check
from toplora_train.config.errors import UserError
from toplora_train.config.levels import Level, levels, typed_keys, validate_complete
from toplora_train.config.locate import OptionFile, conf_dir, groups, installed, options, readable
from toplora_train.config.names import LONGEST
from toplora_train.config.origin import find_origin, package_of
from toplora_train.config.outside import validate_outside
from toplora_train.config.processes import launched_processes
from toplora_train.config.rivals import settle, validate_package
from toplora_train.config.schema import RunConfig, SharedAdapterSettings
from toplora_train.config.useless import validate_useful
from toplora_train.config.yaml_file import option_values, read_yaml, yaml_problem

_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # for text that OmegaConf has written


def prepare_hydra() -> None:
    """Register what is not in ``conf/``: a resolver, recipes and the schema's defaults."""
    register_by_task()
    store = ConfigStore.instance()
    # Hydra copies its sources, and with them this singleton, at every composition; what it loads
    # from it is copied again.
    setattr(store, "__deepcopy__", lambda _memo: store)  # noqa: B010  (Hydra declares none)
    store.store(name="schema_defaults", node=schema_defaults(), package="_global_")
    store.store(name="free_settings", node=_free_settings())
    for option in (option for group in groups() for option in installed(group).values()):
        node, package = load_yaml(option.path), package_of(option) or "_global_"
        store.store(group=option.group, name=option.name, node=node, package=package)
    recipes = options("recipe").values()
    store.repo["recipe"] = {f"{recipe.name}.yaml": _Recipe(recipe.path) for recipe in recipes}


class _Recipe(ConfigNode):
    """A recipe in Hydra's store, read when it is chosen: reading them all takes 0.1 s."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.name, DictConfig({}), "recipe", "_global_", None)
        self.path = path

    def __copy__(self) -> ConfigNode:  # as the store does before it hands one out
        self.node = self.node or load_yaml(self.path)
        return ConfigNode(self.name, self.node, self.group, self.package, None)


def _free_settings() -> DictConfig:
    """A group ``settings`` that accepts any key on the command line, without a plus."""
    node = OmegaConf.create({"settings": {}})
    OmegaConf.set_struct(node.settings, False)
    return node


def schema_defaults() -> dict[str, Any]:
    """The schema's defaults, so that an option file contains only what differs."""
    hints = get_type_hints(RunConfig)
    hints["adapter"] = SharedAdapterSettings  # its other keys are in its option file
    return {
        group: _defaults(hints[group]) if is_dataclass(hints[group]) else {}
        for group in groups()
        if group in hints and group != "recipe"
    }


def load_yaml(path: Path) -> DictConfig:
    """Read an option file.

    Raises:
        UserError: see :func:`~toplora_train.config.yaml_file.read_yaml`; or it is not a mapping.
    """
    try:
        content = OmegaConf.load(StringIO(read_yaml(path)))
    except yaml.YAMLError as error:  # OmegaConf refuses a key given twice, which YAML takes
        raise UserError(yaml_problem(error, path)) from error
    except (OSError, ValueError, RecursionError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{readable(path)}: not valid YAML ({reason})") from error
    if not isinstance(content, DictConfig):
        raise UserError(f"{readable(path)}: must be a mapping of keys to values")
    return content


def validate_option_names(own: Sequence[Path]) -> None:
    """Reject a user's file with the name of one of the package's: Hydra would ignore it.

    Raises:
        UserError: names the file and the remedy; or see
            :func:`~toplora_train.config.outside.validate_outside`.
    """
    for folder in own:
        validate_outside(folder)
        for group in groups():
            for path in sorted((folder / group).glob("*.yaml")):
                if path.stem in options(group):
                    clash = f"the package has its own {group}={path.stem}; rename yours"
                    raise UserError(f"{readable(path)}: {clash}")
        root = folder / "config.yaml"
        if {"defaults", *groups()} & _keys_of(root):
            raise UserError(
                f"{readable(root)}: it would be ignored, as the package has its own config.yaml; "
                f"make it a recipe, {readable(folder / 'recipe' / 'NAME.yaml')}, and run "
                "recipe=NAME"
            )


def _keys_of(path: Path) -> set[str]:
    """The keys of a YAML file; none of a file of another kind, which another tool may read."""
    try:
        return {str(key) for key in load_yaml(path)} if path.is_file() else set()
    except UserError:
        return set()


def run_config(composed: DictConfig, hydra: DictConfig, argv: Sequence[str]) -> RunConfig:
    """The frozen configuration of one job.

    Args:
        composed: the composed configuration, without Hydra's own node.
        hydra: Hydra's own node.
        argv: the command line, for the report.

    Raises:
        UserError: see :func:`toplora_train.config.check.check`.
    """
    own, overrides = own_folders(hydra), typed_overrides(hydra)
    choices = dict(hydra.runtime.choices)
    blame = blamer(choices, own, overrides)
    found = levels_of(composed, choices, own, overrides)
    values = consistent(plain_values(composed, blame), found, own)
    recipe = hydra.runtime.choices.get("recipe")
    sweeping = hydra.mode == RunMode.MULTIRUN
    _validate_places(values)
    if values.get("resume") and values.get("output_dir") is None and not sweeping:
        raise UserError(f"resume={values['resume']} needs output_dir=DIR, the run to resume")
    if (launched_processes() or 1) > 1 and values.get("output_dir") is None:
        raise UserError("the launcher's processes need a common run directory; give output_dir=DIR")
    if sweeping:
        values["output_dir"] = str(hydra.runtime.output_dir)
        if values["tracker"]["name"] in ("wandb", "trackio") and not values["tracker"]["group"]:
            values["tracker"]["group"] = Path(hydra.sweep.dir).name
    elif values.get("output_dir") is None:
        values["output_dir"] = _default_output_dir(values, recipe)
    for key in ("output_dir", "data_root"):
        if isinstance(values.get(key), str):
            values[key] = str(Path(values[key]).expanduser().absolute())
    adapter = values.get("adapter")
    if isinstance(adapter, dict) and isinstance(adapter.get("start_from"), str):
        start = Path(adapter["start_from"]).expanduser()
        if start.is_dir():  # else a hub id
            adapter["start_from"] = str(start.absolute())
    if isinstance(adapter, dict) and isinstance(adapter.get("runs"), list):
        adapter["runs"] = [str(Path(str(run)).expanduser().absolute()) for run in adapter["runs"]]
    command = shlex.join(["toplora-train", *(overrides if sweeping else argv)])
    config = check(values, recipe=recipe, command=command, own=own, blame=blame)
    validate_useful(config, typed_keys(found))
    return config


PLACES = (
    "output_dir",
    "data_root",
    "dataset.train",
    "dataset.test",
    "model.path",
    "adapter.start_from",
)


def _validate_places(values: Mapping[str, Any]) -> None:
    """Refuse an empty path, as of an unset shell variable: it would be the current folder.

    Raises:
        UserError: Names the key.
    """
    for key in PLACES:
        group, _, name = key.rpartition(".")
        of_group = values.get(group) if group else values
        value = of_group.get(name) if isinstance(of_group, Mapping) else None
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and not one.strip():
                raise UserError(f"{key} is empty; give a path, or leave it out")


def check_shown(text: str, overrides: Sequence[str], own: Sequence[Path]) -> None:
    """Validate a configuration that Hydra has printed (``--cfg job``) and not run.

    Raises:
        UserError: see :func:`toplora_train.config.check.check`.
    """
    choices = shown_choices(overrides, own)
    blame = blamer(choices, own, overrides)
    composed = OmegaConf.create(yaml.load(text, Loader=_FAST))
    assert isinstance(composed, DictConfig)
    found = levels_of(composed, choices, own, overrides)
    values = consistent(plain_values(composed, blame), found, own)
    values.pop("study", None)  # of the whole study, not of its jobs
    config = check(
        {**values, "output_dir": values.get("output_dir") or "runs"}, own=own, blame=blame
    )
    validate_useful(config, typed_keys(found))


def plain_values(composed: DictConfig, blame: Blame) -> dict[str, Any]:
    """The configuration as dicts, lists and scalars, with interpolations resolved.

    Raises:
        UserError: a value is missing (``???``) or an interpolation cannot be resolved.
    """
    try:
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise UserError(f"{blame(key)}{key} is not set; give {key}=...") from error
    except InterpolationResolutionError as error:
        key = str(error.full_key)
        reason = str(error).strip().splitlines()[0]
        reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", reason)
        raise UserError(f"{blame(key)}{key}: {reason}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def levels_of(
    composed: DictConfig, choices: Mapping[str, Any], own: Sequence[Path], overrides: Sequence[str]
) -> list[Level]:
    """The levels of a run with the keys they set.

    Raises:
        UserError: The command line or a file is inconsistent or leaves out a mandatory value.
    """
    tasks = composed.get("task")
    files = [
        file
        for file in chosen_files(choices, own)
        if file.group != "task" or (isinstance(tasks, Mapping) and file.name in tasks)
    ]
    found = levels(files, overrides)
    validate_complete(found)
    return found


def consistent(
    values: Mapping[str, Any], found: Sequence[Level], own: Sequence[Path]
) -> dict[str, Any]:
    """The composed values, in which no typed key is silently overridden.

    Raises:
        UserError: Two rivals are set at one level, or a package carries another model.
    """
    settled = settle(values, found)
    validate_package(settled, list(options("model", own).values()))
    return settled


def blamer(choices: Mapping[str, Any], own: Sequence[Path], overrides: Sequence[str]) -> Blame:
    """Return a function from a key to the file that set it, ``"FILE: "``, or "" if typed."""
    typed = [re.split(r"[=@]", override.lstrip("+~"), maxsplit=1)[0] for override in overrides]
    files = chosen_files(choices, own)

    def blame(key: str) -> str:
        if any(key == name or key.startswith(f"{name}.") for name in typed if name not in groups()):
            return ""
        path = find_origin(key, files)
        return f"{readable(path)}: " if path is not None else ""

    return blame


def shown_choices(overrides: Sequence[str], own: Sequence[Path]) -> dict[str, Any]:
    """The option of each group; with ``--cfg`` Hydra does not report its choices."""
    typed = {name: value for name, _, value in (word.partition("=") for word in overrides)}
    choices = default_choices(conf_dir() / "config.yaml")
    recipe = options("recipe", own).get(typed.get("recipe", ""))
    return choices | (default_choices(recipe.path) if recipe is not None else {}) | typed


def default_choices(path: Path) -> dict[str, Any]:
    """The options that a file's defaults list chooses, by group."""
    return {
        str(key).removeprefix("override ").strip(" /"): option
        for entry in option_values(path).get("defaults", [])
        if isinstance(entry, dict)
        for key, option in entry.items()
    }


def chosen_files(choices: Mapping[str, Any], own: Sequence[Path]) -> list[OptionFile]:
    """The files of the chosen options, the recipe first because its values win."""
    found: list[OptionFile] = []
    for group in groups():
        known = options(group, own)
        # Hydra does not report the choices of a list; a task's file sets only that task's keys.
        names = list(known) if group == "task" else [choices.get(group)]
        found.extend(known[name] for name in names if name in known)
    return found


def typed_overrides(hydra: DictConfig) -> list[str]:
    """The command line's ``key=value`` words as typed, interpolations unresolved."""
    words = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    assert isinstance(words, list)
    return [str(word) for word in words]


def own_folders(hydra: DictConfig) -> list[Path]:
    """The user's option folders on Hydra's search path."""
    return [
        Path(source.path)
        for source in hydra.runtime.config_sources
        if source.schema == "file" and source.provider != "main"
    ]


def _default_output_dir(values: Mapping[str, Any], recipe: str | None) -> str:
    """A folder below ``runs/``; see :func:`toplora_train.launch.rundir.new_run_dir`."""
    what = recipe or _name_of(values, "dataset")
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{what}-{_name_of(values, 'adapter')}"
    return str(Path("runs") / re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:LONGEST])


def _name_of(values: Mapping[str, Any], group: str) -> str:
    settings = values.get(group)
    return str(settings.get("name")) if isinstance(settings, Mapping) else "unknown"


def _defaults(settings: Any) -> dict[str, Any]:
    return {field.name: _default(field) for field in fields(settings)}


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        value = field.default
    elif field.default_factory is not MISSING:
        value = field.default_factory()
    else:
        return "???"  # OmegaConf's mark of a mandatory value
    return list(value) if isinstance(value, tuple) else value
