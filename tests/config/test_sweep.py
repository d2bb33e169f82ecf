"""The names of a sweep and its jobs."""

from omegaconf import OmegaConf

from toplora_train.config.sweep import (
    EXCLUDED,
    JOBS,
    MAX_NAME,
    SweepStart,
    job_dir,
    take_started_sweep,
)


def test_a_jobs_name_is_its_number_and_its_overrides():
    assert job_dir(3, "adapter=lora,adapter.r=4") == "3-adapter-lora_adapter.r-4"
    assert job_dir(0, "") == "0"


def test_no_value_makes_a_folder_inside_the_folder():
    name = job_dir(1, "dataset.train=/data/../a b.jsonl,model.path='me/model'")
    assert "/" not in name
    assert " " not in name
    assert "'" not in name


def test_a_name_can_be_typed_as_a_value_on_a_command_line():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    typed = f"output_dir=sweep/{job_dir(1, 'adapter=lora,adapter.alpha=-1,task=[a,b]')}"
    (override,) = OverridesParser.create().parse_overrides([typed])
    assert override.value() == typed.partition("=")[2]


def test_a_long_name_is_cut():
    assert len(job_dir(12, "x=" + "y" * 500)) <= MAX_NAME + 3


def sweep_of(folder, *typed):
    return OmegaConf.create(
        {
            "hydra": {
                "sweep": {"dir": str(folder)},
                "overrides": {"task": list(typed), "hydra": []},
                "job": {"config": {"override_dirname": {"exclude_keys": ["resume"]}}},
            }
        }
    )


def test_overrides_that_all_jobs_share_are_not_in_their_names(tmp_path):
    config = sweep_of(tmp_path, "recipe=smoke", "seed=1,2", "+adapter.r=range(1,3)", "task=[a,b]")
    SweepStart().on_multirun_start(config)
    take_started_sweep()
    assert list(config.hydra.overrides.hydra) == [f"{EXCLUDED}=['recipe','resume','task']"]


def test_an_excluded_key_is_in_the_name_if_it_is_swept_over(tmp_path):
    config = sweep_of(tmp_path, "resume=auto,null")
    SweepStart().on_multirun_start(config)
    take_started_sweep()
    assert list(config.hydra.overrides.hydra) == [f"{EXCLUDED}=[]"]


def test_a_sweep_starts_a_new_list_of_jobs(tmp_path):
    (tmp_path / JOBS).write_text("{}\n")
    config = sweep_of(tmp_path, "seed=1,2")
    SweepStart().on_multirun_start(config)
    assert take_started_sweep() == tmp_path
    assert take_started_sweep() is None
    assert not (tmp_path / JOBS).exists()
