from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.config.schema import OptimizerSettings, TrainerSettings
from toplora_train.data.batches import pack
from toplora_train.models.layers import repeated_layers
from toplora_train.models.load import load_model
from toplora_train.models.locate import ModelLocation
from toplora_train.models.tiny import tiny_model
from toplora_train.run.fit.optimization import (
    adjustments,
    learning_rate,
    make_optimizer,
    padded_together,
    prove_batches,
    rows_at_once,
    training_layers,
    validate_compilation,
    validate_optimizer,
)
from toplora_train.run.prepare.run_data import prepare


def test_lora_plus_multiplies_the_learning_rate_of_b(make_run):
    config = make_run()
    model = load_model(ModelLocation("tiny", None, "built in"), dtype="float32", meta=True)
    adapted = attach_adapter(model, config.adapter, seed=1)
    settings = replace(config.optimizer, name="loraplus", ratio=8.0)
    optimizer = make_optimizer(adapted, settings)
    assert {group["lr_scale"] for group in optimizer.param_groups} == {1.0, 8.0}


def test_settings_that_do_not_fit_the_adapter_are_refused_without_weights(make_run):
    config = make_run()
    model = load_model(ModelLocation("tiny", None, "built in"), dtype="float32", meta=True)
    adapted = attach_adapter(model, config.adapter, seed=1)
    settings = replace(config.optimizer, lr_multipliers={"core": 8.0})
    with pytest.raises(UserError, match="'core' matches no trainable parameter"):
        make_optimizer(adapted, settings)


def test_the_learning_rate_is_the_peak_times_the_schedule():
    settings = OptimizerSettings(name="adamw", lr=0.5, schedule="linear", warmup_steps=2)
    rate = learning_rate(settings, total_steps=6)
    assert [rate(step) for step in (1, 2, 3, 5)] == pytest.approx([0.5 / 3, 1 / 3, 0.5, 0.25])


def test_a_legacy_protocols_warm_up_starts_at_zero_and_may_not_be_the_whole_run():
    settings = OptimizerSettings(name="adamw", lr=0.5, schedule="linear", warmup_steps=2)
    rate = learning_rate(settings, total_steps=6, protocol="legacy.toplora")
    assert [rate(step) for step in (1, 2, 3, 5)] == [0.0, 0.25, 0.5, 0.25]
    with pytest.raises(UserError, match=r"0 in the only step.*optimizer\.warmup_steps=0"):
        learning_rate(settings, total_steps=1, protocol="legacy.toplora")


def test_a_warm_up_longer_than_the_run_is_shortened_with_a_message(make_run):
    config = make_run()
    config = replace(config, optimizer=replace(config.optimizer, warmup_steps=100))
    assert adjustments(config, total_steps=100) == []
    (line,) = adjustments(config, total_steps=2)
    assert "100 steps are more than the run's 2; the warm-up is shortened to 2" in line
    rate = learning_rate(config.optimizer, total_steps=2)
    assert [rate(1), rate(2)] == pytest.approx([1e-3 / 3, 2e-3 / 3])


def test_a_micro_batch_larger_than_the_batch_is_lowered_with_a_message(make_run):
    config = make_run()
    trainer = replace(config.trainer, batch_size=2, micro_batch_size=8)
    assert rows_at_once(trainer) == padded_together(trainer) == 2
    (line,) = adjustments(replace(config, trainer=trainer), total_steps=9)
    assert line.startswith("trainer.micro_batch_size is lowered from 8 to 2, trainer.batch_size")


def test_modules_that_are_trained_whole_in_bfloat16_are_named(make_run):
    config = make_run()
    half = replace(config, model=replace(config.model, dtype="bfloat16"))
    assert adjustments(half, total_steps=9) == []
    whole = replace(half, adapter=half.adapter | {"modules_to_save": ["lm_head"]})
    assert adjustments(replace(whole, model=config.model), total_steps=9) == []
    (line,) = adjustments(whole, total_steps=9)
    assert line.startswith("lm_head of the model is trained whole, in the model's bfloat16")


def test_an_automatic_micro_batch_is_at_most_the_batch():
    assert rows_at_once(TrainerSettings(batch_size=12, micro_batch_size=3)) == 3
    assert rows_at_once(TrainerSettings(batch_size=12, micro_batch_size="auto")) == 12


def test_packing_is_verified_before_the_first_step(make_run):
    config = make_run()
    packed = replace(config.trainer, batching="packed")
    run_data = prepare(replace(config, trainer=packed))
    model = attach_adapter(tiny_model(), config.adapter, seed=1)
    prove_batches(model, packed, run_data, accelerator=Accelerator(cpu=True))
    leaking = replace(run_data.objective, training_collate=without_positions)
    with pytest.raises(UserError, match=r"trainer\.batching=padded"):
        prove_batches(
            model,
            packed,
            replace(run_data, objective=leaking),
            accelerator=Accelerator(cpu=True),
        )
    assert padded_together(packed) == 1


def without_positions(rows):
    return {name: tensor for name, tensor in pack(rows).items() if name != "position_ids"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_layers_are_verified_without_consuming_random_numbers(make_run):
    config = make_run()
    trainer = replace(config.trainer, compile="aot_eager")
    run_data = prepare(config)
    model = attach_adapter(tiny_model(), adapter_defaults("lora")[0], seed=1)
    before = torch.get_rng_state()
    with training_layers(model, trainer, run_data, accelerator=Accelerator(cpu=True)):
        assert "forward" in vars(repeated_layers(model)[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("trainer", "engine", "message"),
    [
        ({"activation_checkpointing": True}, "ddp", "activation_checkpointing=false"),
        ({}, "fsdp2", "use launch=ddp"),
    ],
)
def test_unsupported_compilation_is_refused(make_run, trainer, engine, message):
    config = make_run()
    config = replace(
        config,
        trainer=replace(config.trainer, compile="inductor", **trainer),
        launch=replace(config.launch, engine=engine),
    )
    with pytest.raises(UserError, match=message):
        validate_compilation(config, processes=2)
    plain = replace(config, trainer=replace(config.trainer, compile=None))
    validate_compilation(plain, processes=2)


def test_muon_is_refused_where_matrices_are_sharded(make_run):
    config = make_run()
    config = replace(
        config,
        optimizer=replace(config.optimizer, name="muon"),
        launch=replace(config.launch, engine="zero2"),
    )
    validate_optimizer(config, processes=1)
    whole = replace(config, launch=replace(config.launch, engine="fsdp2"))
    validate_optimizer(whole, processes=2)  # it shards the base model, not the adapter
    with pytest.raises(UserError, match="use launch=ddp"):
        validate_optimizer(config, processes=2)


def test_lorsum_is_for_one_process_without_compiled_layers_or_scaled_gradients(make_run):
    config = make_run()
    config = replace(config, optimizer=replace(config.optimizer, name="lorsum"))
    bf16 = replace(config, trainer=replace(config.trainer, mixed_precision="bf16"))
    validate_optimizer(bf16, processes=1)
    with pytest.raises(UserError, match="start one process, or use another optimizer"):
        validate_optimizer(config, processes=2)
    for key, value in (("compile", "inductor"), ("mixed_precision", "fp16")):
        changed = replace(config, trainer=replace(config.trainer, **{key: value}))
        with pytest.raises(UserError, match=f"does not work with trainer.{key}={value}"):
            validate_optimizer(changed, processes=1)
