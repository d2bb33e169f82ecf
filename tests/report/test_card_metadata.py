"""The header of the model card is what the hub reads, and names no folder of this machine."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from tests.report.made_up import made_up_report, task_score
from tests.run.conftest import tiny_run
from toplora_train.config.schema import ModelSettings
from toplora_train.report.card_metadata import (
    Facts,
    front_matter,
    public_command,
    source_name,
    without_folders,
)


def header(facts: Facts = Facts(), **changes) -> dict:  # noqa: B008  (frozen)
    text = front_matter(made_up_report(**changes).to_dict(), facts)
    return yaml.safe_load(text.removeprefix("---").removesuffix("---"))


def test_the_hubs_own_reader_gets_the_scores_back():
    facts = Facts("apache-2.0", "en", {"arithmetic": "owner/rows"})
    card = ModelCard(front_matter(made_up_report().to_dict(), facts) + "\n\ntext\n")
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.dataset_name) == ("owner/rows", "arithmetic")
    assert (result.metric_type, result.metric_value) == ("accuracy", 64.0)
    assert result.metric_name == "accuracy, 95 % interval 59.2 to 68.6, n = 400"
    assert (card.data.license, card.data.language) == ("apache-2.0", "en")
    assert card.data.base_model == "owner/base_model"


def test_what_is_unknown_is_left_out():
    found = header(tasks={})
    assert not {"license", "language", "datasets", "model-index"} & found.keys()


def test_a_data_set_of_the_hub_is_named_without_its_commit():
    data = replace(made_up_report().data, source=["owner/rows@0123abc", "/home/me/rows.jsonl"])
    assert header(data=data)["datasets"] == ["owner/rows"]


def test_an_undefined_score_is_no_result():
    scores = {"a": replace(task_score(base=None), value=float("nan")), "b": task_score()}
    results = header(tasks=scores)["model-index"][0]["results"]
    assert [one["dataset"]["name"] for one in results] == ["b"]


def test_a_licence_without_a_tag_of_the_hub_is_named():
    found = header(Facts(licence="qwen-research"))
    assert (found["license"], found["license_name"]) == ("other", "qwen-research")


def test_a_local_base_model_is_not_linked():
    model = replace(made_up_report().model, path="/home/me/mine", revision="local folder")
    found = header(model=model)
    assert "base_model" not in found
    assert found["model-index"][0]["name"] == "toplora adapter for mine"


def test_facts_are_those_of_what_ships_with_the_package(tmp_path: Path):
    config = tiny_run(tmp_path)
    smollm2 = ModelSettings(name="x", path="HuggingFaceTB/SmolLM2-135M-Instruct")
    facts = Facts.of(replace(config, model=smollm2))
    assert (facts.licence, facts.language, facts.max_new_tokens) == ("apache-2.0", "en", 4)
    for name in ("jsonl", "table", "images"):
        own = replace(config, dataset=replace(config.dataset, name=name))
        assert Facts.of(own).language is None
        assert Facts.of(own).licence is None


@pytest.mark.parametrize(
    ("source", "found"),
    [("owner/name", ["owner/name"]), ("rest-of:owner/name", ["owner/name"]), ("data/a.csv", None)],
)
def test_a_source_on_the_hub_is_named_and_a_file_is_not_taken_for_one(source, found):
    data = replace(made_up_report().data, source=source)
    assert header(data=data).get("datasets") == found


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/home/me/rows.jsonl", "rows.jsonl"),
        ("~/rows/a.jsonl", "a.jsonl"),
        ("C:\\me\\a.jsonl", "a.jsonl"),
        ("owner/name@main", "owner/name@main"),
        ("rows/a.jsonl", "rows/a.jsonl"),
        ("https://host/a/b", "https://host/a/b"),
        ("rest-of:/home/me/rows.csv", "rest-of:rows.csv"),
        ("[{path:/home/me/a.jsonl,weight:2}]", "[{path:a.jsonl,weight:2}]"),
        ("dataset.train=[/x/a.jsonl,/x/b.jsonl]", "dataset.train=[a.jsonl,b.jsonl]"),
    ],
)
def test_absolute_paths_are_cut_to_their_last_part(text: str, public: str):
    assert without_folders(text) == public


def test_a_command_keeps_all_but_the_folders():
    command = "toplora-train 'output_dir=/my name/run' dataset.train=rows/a.jsonl lr=1/2"
    public = "toplora-train output_dir=run dataset.train=rows/a.jsonl lr=1/2"
    assert public_command(command) == public


@pytest.mark.parametrize("prompt", ["{question} yes /no /maybe", "{question}\\Answer: /x/y"])
def test_a_prompt_in_a_command_is_no_path(prompt: str):
    words = [f"dataset.prompt='{prompt}'", f"task.mine.response={prompt}", f"prompt={prompt}"]
    command = shlex.join(["toplora-train", *words])
    assert public_command(command) == command


def test_bundled_rows_are_named_as_in_the_configuration():
    assert source_name("/x/toplora_train/data/bundled/arithmetic/train.jsonl") == (
        "bundled:arithmetic/train.jsonl"
    )
