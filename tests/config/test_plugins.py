"""Modules of one's own are imported where the user says so, never because a run names them."""

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from tests.config.example import values
from toplora_train.config import locate, plugins
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.config.plugins import find_plugins, load_plugins, plugin
from toplora_train.config.schema import RunConfig

KEY = "adapter/stretch"


@pytest.fixture(autouse=True)
def _nothing_is_imported_yet(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins, "_LOADED", {})
    yield
    for name in ("toplora_adapter_stretch", "stretch", "kit.stretch", "kit"):
        sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "mine" / "adapter").parent


def write(folder: Path, code: str = "VALUE = 7\n") -> Path:
    folder.mkdir(parents=True)
    (folder / "stretch.yaml").write_text("# Stretch\nname: stretch\nr: 8\n")
    (folder / "stretch.py").write_text(code)
    return folder


def chosen(folder: Path) -> dict[str, str]:
    return find_plugins({"adapter": {"name": "stretch"}}, [folder])


def test_the_module_beside_a_chosen_option_is_found_without_importing_it(folder):
    assert list(chosen(folder)) == [KEY]
    assert plugin("adapter", "stretch") is None
    assert find_plugins({"adapter": {"name": "toplora"}}, [folder]) == {}


def test_a_task_is_found_by_its_name(tmp_path):
    (tmp_path / "task").mkdir()
    for name in ("capitals.py", "capitals.yaml", "rivers.yaml"):
        (tmp_path / "task" / name).touch()
    tasks = {"task": {"capitals": {}, "rivers": {}}, "adapter": None}
    assert list(find_plugins(tasks, [tmp_path])) == ["task/capitals"]


def test_loading_imports_it_once(folder):
    load_plugins(chosen(folder), [folder])
    module = plugin("adapter", "stretch")
    assert module.VALUE == 7
    load_plugins(chosen(folder), [folder])
    assert plugin("adapter", "stretch") is module
    assert adapter_defaults("stretch")[0]["r"] == 8


def test_a_module_that_the_users_script_has_imported_is_the_same(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder / "adapter")
    import stretch

    load_plugins(chosen(folder), [folder])
    assert plugin("adapter", "stretch") is stretch


def test_a_run_alone_imports_nothing(folder):
    with pytest.raises(UserError, match=r"adapter/stretch\.py, and .* config_dir=FOLDER"):
        load_plugins({KEY: "0" * 64}, [])
    with pytest.raises(UserError, match=r"\.\./stretch\.py, and nothing is imported"):
        load_plugins({"adapter/../stretch": "0" * 64}, [folder])
    with pytest.raises(UserError, match="nothing is imported"):
        load_plugins({"hydra/stretch": "0" * 64}, [folder])


def test_another_version_than_the_runs_is_said(folder):
    with pytest.warns(UserWarning, match=r"stretch\.py is not the module that the run used"):
        load_plugins({KEY: "0" * 64}, [folder])


def test_a_file_that_changes_after_its_import_is_refused(folder):
    load_plugins(chosen(folder), [folder])
    (folder / "adapter" / "stretch.py").write_text("VALUE = 8\n")
    with pytest.raises(UserError, match=r"stretch\.py has changed since .* restart Python"):
        load_plugins(chosen(folder), [folder])


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import nowhere_to_be_found\n", r"line 1: cannot be imported \(ModuleNotFoundError: No"),
        ("x = 1\n\ny = (\n", r"line 3: cannot be imported \(SyntaxError: '\(' was never closed"),
        ("def f():\n    raise KeyError('k')\nf()\n", r"line 2: .* \(KeyError: 'k'\)"),
    ],
)
def test_a_module_that_fails_is_one_line_with_its_place(tmp_path, code, line):
    folder = write(tmp_path / "adapter", code).parent
    with pytest.raises(UserError, match=rf"stretch\.py, {line}"):
        load_plugins(chosen(folder), [folder])
    assert "toplora_adapter_stretch" not in sys.modules


def test_a_run_records_the_module_and_its_folder(folder):
    from toplora_train.config.check import check

    adapter = {"name": "stretch", "r": 4}
    config: RunConfig = check(values(adapter=adapter), own=[folder])
    assert config.adapter["r"] == 4
    assert config.plugins == chosen(folder)
    assert config.config_dirs == [str(folder)]
    assert check(values(), own=[folder]).config_dirs == []


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package ``kit`` with an entry point."""
    write(tmp_path / "site" / "kit")
    (tmp_path / "site" / "kit" / "__init__.py").write_text("raise SystemExit('imported')\n")

    def publish(name: str, value: str) -> None:
        point = EntryPoint(name, value, "toplora_train.adapters")
        monkeypatch.setattr(locate, "_entry_points", lambda: EntryPoints([point]))
        monkeypatch.setattr(locate, "installed", locate.installed.__wrapped__)

    monkeypatch.syspath_prepend(tmp_path / "site")
    return publish


def test_an_installed_package_adds_an_adapter_that_is_imported_when_chosen(installed, tmp_path):
    installed("stretch", "kit.stretch")
    option = locate.options("adapter")["stretch"]
    assert (option.path.name, option.module) == ("stretch.yaml", "kit.stretch")
    assert "kit" not in sys.modules
    (tmp_path / "site" / "kit" / "__init__.py").write_text("")
    load_plugins(find_plugins({"adapter": {"name": "stretch"}}, []), [])
    assert plugin("adapter", "stretch").__name__ == "kit.stretch"


@pytest.mark.parametrize("value", ["kit.other", "kit", "not_installed.stretch"])
def test_an_entry_point_without_its_yaml_is_said_and_left_out(installed, value):
    installed("stretch", value)
    with pytest.warns(UserWarning, match=f"stretch = {value} is ignored: it must name a module"):
        assert "stretch" not in locate.options("adapter")


@pytest.mark.parametrize("end", ["raise SystemExit", "import sys; sys.exit(0)"])
def test_a_module_that_exits_is_refused(tmp_path, end):
    own = write(tmp_path / "adapter", end).parent
    with pytest.raises(UserError, match=r"stretch\.py, line 1: cannot be imported \(SystemExit"):
        load_plugins(chosen(own), [own])


def test_a_module_replaces_no_extraction_metric_or_prompt(tmp_path):
    line = 'from toplora_train.evaluation.answers import EXTRACTIONS as E; E["number"] = E["exact"]'
    own = write(tmp_path / "adapter", line).parent
    with pytest.raises(UserError, match=r"stretch\.py, line 1: the name 'number' is taken"):
        load_plugins(chosen(own), [own])
    table: plugins.Registry[int] = plugins.Registry(a=1)
    for more in ({"a": 2}, {"b": 2, "a": 1}):
        with pytest.raises(UserError, match="'a' is taken"):
            table.update(more)
        with pytest.raises(UserError, match=r"'[ab]' is taken"):
            table |= more
    table |= {"c": 2}
    assert table == {"a": 1, "b": 2, "c": 2}
