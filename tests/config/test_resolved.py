"""config.yaml is read back exactly as written."""

import pytest
import yaml

from tests.config.example import run_config
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import flat, read_config, write_config


def test_a_configuration_round_trips_exactly(tmp_path):
    config = run_config(
        optimizer__lr=1e-4,
        optimizer__eps=1e-8,
        optimizer__betas=[0.9, 0.95],
        dataset__train=["a.jsonl", "b.jsonl"],
        task__boolq__choices=["true", "no", "1e-4", "null"],
        trainer__mixed_precision="no",
        adapter__gate={"eps": 1e-5},
        adapter__target_modules=["q_proj"],
        recipe="smoke",
        command="toplora-train 'dataset.train=ä b.jsonl'",
    )
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


def test_the_file_is_plain_yaml_in_the_order_of_the_schema(tmp_path):
    config = run_config()
    write_config(config, tmp_path / "config.yaml")
    content = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert list(content)[:3] == ["model", "dataset", "adapter"]
    assert list(content["optimizer"])[:2] == ["name", "lr"]
    assert content["optimizer"]["lr"] == 1e-4


def test_nothing_but_the_file_is_left(tmp_path):
    write_config(run_config(), tmp_path / "config.yaml")
    write_config(run_config(), tmp_path / "config.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_hand_written_exponent_is_a_number(tmp_path):
    path = tmp_path / "config.yaml"
    write_config(run_config(), path)
    path.write_text(path.read_text().replace("lr: 0.0001", "lr: 2e-4"))
    assert read_config(path).optimizer.lr == 2e-4


def test_a_folder_without_a_run_is_reported(tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        read_config(tmp_path / "config.yaml")


def test_a_file_of_another_version_is_rejected_with_its_first_unknown_key(tmp_path):
    path = tmp_path / "config.yaml"
    write_config(run_config(), path)
    path.write_text(path.read_text() + "novelty: 1\n")
    with pytest.raises(UserError, match=r"config\.yaml: not a configuration.*novelty"):
        read_config(path)


def test_a_broken_file_is_reported(tmp_path):
    (tmp_path / "config.yaml").write_text("model: [")
    with pytest.raises(UserError, match=r"config\.yaml, line 1: not valid YAML"):
        read_config(tmp_path / "config.yaml")


def test_two_configurations_compare_by_dotted_key():
    one, two = flat(run_config()), flat(run_config(optimizer__lr=2e-4))
    assert {key for key in one if one[key] != two[key]} == {"optimizer.lr"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(range(256)), "line 2: not UTF-8"),
        ("a: b".encode("utf-16"), "line 1: not UTF-8"),
        (b"[" * 3000, "nested too deep"),
        (b"seed: " + b"1" * 5000, "not valid YAML \\(Exceeds the limit"),
        (b"", "not a configuration"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_line(tmp_path, content, message):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_config(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)
