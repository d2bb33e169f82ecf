from dataclasses import replace

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.schema import LaunchSettings
from toplora_train.run.prepare.plan_target import (
    find_target,
    launch_command,
    memory_of_devices,
    too_large,
)
from toplora_train.run.prepare.step_memory import StepMemory


def memory(config, weights: int = 1_000):
    step = StepMemory(
        config,
        parameters=weights // 4,
        embeddings=25,
        trainable=10,
        layers=9,
        activations=lambda rows: 100 * rows,
    )
    return memory_of_devices(config, step.of_each, trainable=10)


def test_each_of_eight_devices_holds_an_eighth_of_a_batch(make_run):
    alone, ddp, zero2, fsdp2 = memory(make_run())
    assert alone.parts["activations"] == 400
    assert {one.parts["activations"] for one in (ddp, zero2, fsdp2)} == {100}  # 8 rows, 8 devices
    assert fsdp2.training < zero2.training < ddp.training < alone.training


def test_as_many_devices_are_compared_as_the_run_has_processes(make_run):
    config = make_run(launch=LaunchSettings(engine="fsdp2", processes=64))
    assert [one.setting for one in memory(config)] == [
        "1 device",
        "64, ddp",
        "64, zero2",
        "64, fsdp2",
    ]


def test_an_evaluation_holds_the_base_model_whole_but_under_fsdp2(make_run):
    *others, fsdp2 = (column.evaluation for column in memory(make_run()))
    assert set(others) == {1_000 + 4 * 10}
    assert fsdp2 == 1_000 // 8 + 2 * 100 + 100 + 4 * 10


def test_a_setting_that_a_run_refuses_has_a_reason_instead_of_numbers(make_run):
    config = make_run()
    config = replace(config, trainer=replace(config.trainer, compile="aot_eager"))
    refused = [column.refusal for column in memory(config)]
    assert refused[:2] == [None, None]
    assert all("trainer.compile" in reason for reason in refused[2:])


def test_the_command_is_that_of_the_run_with_the_first_engine_that_fits(make_run):
    config = make_run(
        command="toplora-train recipe=smoke plan=true plan_for=t4 launch=zero2 'output_dir=a b'",
        launch=LaunchSettings(engine="zero2"),
    )
    needs = memory(config)
    start = "toplora-train recipe=smoke 'output_dir=a b' launch="
    assert launch_command(config, needs, None) == f"{start}ddp launch.processes=8"
    assert launch_command(config, needs, needs[2].most) == f"{start}zero2 launch.processes=8"
    assert launch_command(config, needs, 10) is None


def test_where_no_setting_fits_the_remedies_are_named(make_run):
    config = make_run(plan=True, plan_for="t4")
    target = find_target(config)
    assert too_large(memory(config), target) is None
    line = too_large(memory(config, weights=32 * 10**10), target)
    assert line.startswith("t4 (16 GB) is too small in every setting: at least 103.5 GiB")
    assert "trainer.micro_batch_size" in line


def test_a_named_device_has_its_published_peak_and_this_machine_is_measured(make_run):
    config = make_run()
    assert find_target(config).speed_from == "measured now"
    assert find_target(config).speed(8, 16) > 0
    config = make_run(plan=True, plan_for="h200")
    assert find_target(config).speed(8, 16) == pytest.approx(66.9e12)
    config = replace(config, trainer=replace(config.trainer, mixed_precision="bf16"))
    assert find_target(config).speed(8, 16) == pytest.approx(989.4e12)


def test_an_unknown_device_is_refused(make_run):
    with pytest.raises(UserError, match="plan_for=abacus"):
        find_target(make_run(plan=True, plan_for="abacus"))
