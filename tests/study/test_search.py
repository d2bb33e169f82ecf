"""What is filled in for a search, and which searches are refused."""

import pytest
from omegaconf import OmegaConf

from toplora_train.config.errors import UserError
from toplora_train.config.locate import groups, options
from toplora_train.study.search import OPTUNA, prepare_search, searches, validate_search


def sweep(*typed, adapter="lora", hydra=(), plan=False, **sweeper):
    return OmegaConf.create(
        {
            "seed": 5,
            "plan": plan,
            "prefetch": False,
            "hydra": {
                "sweeper": {
                    "_target_": f"{OPTUNA}OptunaSweeper",
                    "n_jobs": 2,
                    "max_failure_rate": 0.0,
                    "direction": "Direction.minimize",
                    "params": None,
                    "search_space": None,
                    "sampler": {"seed": None},
                    **sweeper,
                },
                "runtime": {"choices": {"adapter": adapter}, "config_sources": []},
                "overrides": {"task": list(typed), "hydra": list(hydra)},
            },
        }
    )


def test_only_optuna_searches():
    assert searches(sweep().hydra.sweeper)
    assert not searches(sweep(_target_="hydra.BasicSweeper").hydra.sweeper)


def test_the_space_is_the_adapters_and_a_continued_search_has_the_same_seed():
    config = sweep()
    prepare_search(config)
    assert set(config.hydra.sweeper.params) == {"optimizer.lr", "adapter.r"}
    assert config.hydra.sweeper.sampler.seed == 5
    assert (config.hydra.sweeper.n_jobs, config.hydra.sweeper.max_failure_rate) == (1, 1.0)


def test_what_is_typed_stays():
    config = sweep(
        hydra=["hydra.sweeper.n_jobs=2", "+hydra.sweeper.params={x: 1}"],
        params={"x": "1"},
        sampler={"seed": 7},
    )
    prepare_search(config)
    assert config.hydra.sweeper.n_jobs == 2
    assert config.hydra.sweeper.params == {"x": "1"}
    assert config.hydra.sweeper.sampler.seed == 7


def test_every_adapter_has_a_space_of_keys_it_has():
    from toplora_train.config.check import known_keys, known_tree

    spaces = options("hydra/search")
    assert spaces.keys() == options("adapter").keys()
    for name, space in spaces.items():
        keys = OmegaConf.load(space.path).keys()
        assert set(keys) <= set(known_keys(known_tree(name, options("task"))))


def test_hydras_own_groups_are_none_of_a_runs():
    assert "hydra" not in groups()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (sweep("adapter=lora,dora"), "searches the settings of one adapter"),
        (sweep(plan=True), "needs the results of jobs that train"),
        (sweep(direction="Direction.maximize"), "direction must be minimize"),
        (sweep(adapter="mine"), r"no search space for adapter=mine: .*hydra/search/mine\.yaml"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(config, message):
    prepare_search(config)
    with pytest.raises(UserError, match=message):
        validate_search(config)


def test_a_typed_interval_is_a_space():
    config = sweep("optimizer.lr=tag(log, interval(1e-5, 1e-2))", adapter="mine")
    prepare_search(config)
    validate_search(config)
