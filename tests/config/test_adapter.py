"""The values in an adapter's file are its schema."""

import pytest

from toplora_train.config.adapter import adapter_defaults, complete_adapter, shown
from toplora_train.config.errors import UserError
from toplora_train.config.locate import options


@pytest.mark.parametrize("name", options("adapter"))
def test_the_defaults_of_every_adapter_pass_its_own_schema(name):
    defaults, _ = adapter_defaults(name)
    assert defaults["name"] == name
    assert complete_adapter(defaults, name) == defaults


@pytest.mark.parametrize("name", options("adapter"))
def test_every_adapter_may_start_from_another(name):
    assert complete_adapter({}, name)["start_from"] is None
    assert complete_adapter({"start_from": "runs/one"}, name)["start_from"] == "runs/one"
    for value in (3, "", ["a"]):
        with pytest.raises(
            UserError, match=r"^adapter\.start_from must be a run, a folder or a hub"
        ):
            complete_adapter({"start_from": value}, name)


def test_missing_keys_have_their_defaults():
    completed = complete_adapter({"name": "toplora", "gate": {"norm": "none"}}, "toplora")
    defaults, _ = adapter_defaults("toplora")
    assert completed["r"] == defaults["r"]
    assert completed["gate"] == {**defaults["gate"], "norm": "none"}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"r": "four"}, "adapter.r must be an integer, not 'four'"),
        ({"r": 4.5}, "adapter.r must be an integer, not 4.5"),
        ({"r": True}, "adapter.r must be an integer, not true"),
        ({"r": None}, "adapter.r must be an integer, not null"),
        ({"dropout": "none"}, "adapter.dropout must be a number, not 'none'"),
        ({"use_rslora": 1}, "adapter.use_rslora must be true or false, not 1"),
        ({"gate": 3}, "adapter.gate must be a mapping, not 3"),
        ({"gate": {"activation": 1}}, "adapter.gate.activation must be a string, not 1"),
    ],
)
def test_a_value_of_another_type_than_the_default_is_rejected(settings, complaint):
    with pytest.raises(UserError) as error:
        complete_adapter(settings, "toplora")
    assert str(error.value) == complaint


def test_an_integer_is_accepted_as_a_number():
    completed = complete_adapter({"dropout": 0}, "toplora")
    assert completed["dropout"] == 0.0
    assert isinstance(completed["dropout"], float)


@pytest.mark.parametrize("value", [["q_proj"], "all-linear", None])
def test_any_value_is_valid_if_the_default_is_null(value):
    assert complete_adapter({"target_modules": value}, "toplora")["target_modules"] == value


def test_the_values_of_a_file_are_its_schema_and_its_comments_are_not(tmp_path, monkeypatch):
    from toplora_train.config import locate

    (tmp_path / "config.yaml").touch()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "new.yaml").write_text(
        "name: new\ndepth: 3  # layers; null: all of them\nwidth: 3  # columns\n"
        "free: {}\nrows: [1]\n"
    )
    monkeypatch.setattr(locate, "conf_dir", lambda: tmp_path)
    for key in ("depth", "width"):
        with pytest.raises(UserError, match=rf"adapter\.{key} must be an integer, not null"):
            complete_adapter({key: None}, "new")
    assert complete_adapter({"free": {"a": {"b": 1}}}, "new")["free"] == {"a": {"b": 1}}
    with pytest.raises(UserError, match=r"adapter\.rows must be a list, not 3"):
        complete_adapter({"rows": 3}, "new")


def test_an_unknown_adapter_is_reported_with_the_known_ones():
    with pytest.raises(
        UserError, match=r"^adapter\.name: no adapter named 'topola'; did you mean 'toplora'"
    ):
        adapter_defaults("topola")
    with pytest.raises(UserError, match=r"adapter\.name is not set"):
        adapter_defaults(None)


def test_values_are_shown_as_they_would_be_typed():
    assert [shown(value) for value in (None, True, "a", 1.5)] == ["null", "true", "'a'", "1.5"]
