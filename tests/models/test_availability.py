from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.models.availability import model_state
from toplora_train.models.known import SHIPPED
from toplora_train.models.tiny import tiny_model, tiny_tokenizer

LLAMA = "meta-llama/Meta-Llama-3-8B"


def state_of(path, package=None, builtin=None):
    return model_state(path=path, revision=None, package=package, builtin=builtin)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache in its usual layout, with one empty commit of LLAMA."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path / f"models--{LLAMA.replace('/', '--')}"


def put(cache: Path, *names: str) -> None:
    (cache / "refs").mkdir(parents=True, exist_ok=True)
    (cache / "refs" / "main").write_text("c0ffee")
    (cache / "snapshots" / "c0ffee").mkdir(parents=True, exist_ok=True)
    for name in names:
        (cache / "snapshots" / "c0ffee" / name).write_text("{}")


@pytest.mark.usefixtures("cache")
def test_a_model_that_is_not_available_is_to_fetch_with_its_known_facts():
    found = state_of(LLAMA)
    assert (found.state, found.place, found.location) == ("to_fetch", None, None)
    assert (found.licence, found.gated, found.size) == ("llama3", True, 16_060_522_496)
    assert found.url.endswith(LLAMA)


@pytest.mark.usefixtures("cache")
def test_an_unknown_model_has_no_facts():
    found = state_of("nobody/nothing")
    assert (found.state, found.licence, found.gated, found.size) == ("to_fetch", None, None, None)


def test_a_config_alone_suffices_to_plan_and_its_weights_are_to_fetch(cache: Path):
    put(cache, "config.json", "tokenizer.json")
    found = state_of(LLAMA)
    assert (found.state, found.place, found.tokenizer) == ("to_fetch", None, True)
    assert found.location.revision == "c0ffee" != SHIPPED


def test_with_its_weights_it_is_cached(cache: Path):
    put(cache, "config.json", "tokenizer.json", "model.safetensors")
    found = state_of(LLAMA)
    assert found.state == "cached"
    assert found.place.endswith("c0ffee")


def test_without_a_tokenizer_it_is_to_fetch_as_in_a_run(cache: Path):
    put(cache, "config.json", "model.safetensors")
    found = state_of(LLAMA)
    assert (found.state, found.tokenizer) == ("to_fetch", False)


def test_a_folder_and_the_built_in_model_are_local(tmp_path: Path):
    assert state_of(None, builtin="tiny").place == "made in code"
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    found = state_of(str(tmp_path))
    assert (found.state, found.place) == ("local", str(tmp_path.resolve()))


def test_an_invalid_path_is_refused_as_in_a_run():
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        state_of("./nowhere")
