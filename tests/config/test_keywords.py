"""Keyword arguments are the command line's words, composed and validated like these."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from toplora_train.config.errors import UserError
from toplora_train.config.keywords import compose_run, override_words


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"recipe": "smoke", "seed": 2}, ["recipe=smoke", "seed=2"]),
        ({"adapter": {"name": "toplora", "r": 4}}, ["adapter=toplora", "adapter.r=4"]),
        ({"trainer": {"max_steps": None}}, ["trainer.max_steps=null"]),
        ({"adapter": {"gate": {"norm": "none"}}}, ["adapter.gate={norm:'none'}"]),
        ({"task": ["boolq", "piqa"]}, ["task=[boolq,piqa]"]),
        ({"task": {"boolq": {"version": 2}}}, ["task=[boolq]", "task.boolq.version=2"]),
        ({"evaluation": {"base": False}}, ["evaluation.base=false"]),
        ({"output_dir": Path("a b")}, ["output_dir='a b'"]),
        ({"seed": np.int64(3)}, ["seed=3"]),
        ({"optimizer": {"lr": np.float64(1e-3)}}, ["optimizer.lr=0.001"]),
        ({"plan": np.bool_(True)}, ["plan=true"]),
    ],
)
def test_settings_are_words(settings, words):
    assert override_words(settings) == words


STRINGS = ("plain", "it's", 'a "b"', "a,b=c", "{x}", "[y]", "x: y", "null", "1e3", "a\\b'", "é ")
KEYS = ("question", "lora_B.x", "a b", "x:y", "a=b,c", "q(1)")


@pytest.mark.parametrize("value", STRINGS)
def test_hydra_reads_a_string_as_it_is(value):
    (word,) = override_words({"model": {"revision": value}})
    assert OverridesParser.create().parse_override(word).value() == value


def test_strings_and_the_keys_of_a_mapping_arrive_as_they_are():
    free = dict(zip(KEYS, range(2, 8), strict=True))
    settings = {
        "recipe": "smoke",
        "model": {"revision": "a\\b'"},
        "dataset": {"revision": "1e3"},
        "adapter": {"name": "lora", "target_modules": [*STRINGS]},
        "optimizer": {"lr_multipliers": free},
    }
    config = compose_run(override_words(settings))
    assert (config.model.revision, config.dataset.revision) == ("a\\b'", "1e3")
    assert config.adapter["target_modules"] == [*STRINGS]
    assert config.optimizer.lr_multipliers == free


def test_the_command_that_would_give_the_same_run_is_recorded(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# Mine\nname: mine\nbuiltin: tiny\n")
    config = compose_run(override_words({"recipe": "smoke", "model": "mine"}), [tmp_path])
    assert config.model.name == "mine"
    assert config.command == f"toplora-train recipe=smoke model=mine --config-dir {tmp_path}"


def test_a_value_that_no_setting_can_be_is_refused():
    with pytest.raises(UserError, match="is a complex, which no setting can be"):
        override_words({"seed": 1j})


def test_runs_are_composed_in_several_threads_and_inside_a_program_of_hydras(tmp_path):
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        theirs = GlobalHydra.instance().hydra
        with ThreadPoolExecutor(4) as threads:
            seeds = range(8)
            words = [override_words({"recipe": "smoke", "seed": seed}) for seed in seeds]
            assert [one.seed for one in threads.map(compose_run, words)] == [*seeds]
        assert GlobalHydra.instance().hydra is theirs
