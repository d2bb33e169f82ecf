import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.adapters.test_contract import attached
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.fusion import gate_name
from toplora_train.adapters.gates import gates_of
from toplora_train.adapters.saving import save_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.contract.subject import shaken
from toplora_train.evaluation.predictions import Prediction, write_predictions
from toplora_train.models.tiny import tiny_model, tiny_tokenizer
from toplora_train.report.inspection import read_inspection
from toplora_train.run.assemble import inspection
from toplora_train.run.assemble.inspection import (
    Text,
    general_texts,
    inspect_adapter,
    run_texts,
)

TEXTS = [
    Text("a", "Question: how many? 12"),
    Text("b", "Question: who? Ann"),
    Text("c", "Question: no"),
]


def measured(model, folder, texts=TEXTS, **how):
    how = {"base": "tiny", "extras": True} | how
    return inspect_adapter(model, tiny_tokenizer(), texts, folder, **how)


def test_statistics_are_over_the_tokens_after_what_all_texts_begin_with(tmp_path):
    model = shaken(attached("toplora"))
    found = measured(model, tmp_path)
    assert read_inspection(tmp_path) == found
    shared = len("Question: ")
    ids = [tiny_tokenizer()(text.text)["input_ids"] for text in TEXTS]
    gates = [gates_of(model, one) for one in ids]
    for one in found.gates.modules:
        own = torch.cat([text[one.module][shared:] for text in gates]).double()
        assert found.gates.tokens == len(own) == sum(len(text.text) - shared for text in TEXTS)
        torch.testing.assert_close(torch.tensor(one.mean).double(), own.mean(0))
        torch.testing.assert_close(torch.tensor(one.deviation).double(), own.std(0, correction=0))
    mean = torch.tensor(found.gates.modules[0].mean)
    layer = model.base_model.model.get_submodule(found.gates.modules[0].module)
    update = (layer.toplora_B["default"] * mean) @ layer.toplora_A["default"] * 2
    assert found.updates[0].norm == pytest.approx(float(update.detach().norm()), rel=1e-5)


def test_the_table_has_the_gates_of_every_token_shown(tmp_path):
    model = shaken(attached("toplora"))
    own = Text("your text", "Is it so?", own=True)
    found = measured(model, tmp_path, [*TEXTS, own])
    assert found.gates.modules == measured(model, tmp_path / "without").gates.modules
    assert found.gates.texts == ["your text", "a", "b", "c"]
    rows = pq.read_table(tmp_path / "inspection" / "gates.parquet").to_pylist()
    direct = gates_of(model, tiny_tokenizer()(own.text)["input_ids"])
    for module, gates in direct.items():
        of_module = [row for row in rows if row["text"] == 0 and row["module"] == module]
        assert "".join(row["token"] for row in of_module) == own.text
        assert [row["position"] for row in of_module] == list(range(len(own.text)))
        torch.testing.assert_close(torch.tensor([row["gates"] for row in of_module]), gates)
    assert min(row["position"] for row in rows if row["text"] == 1) == len("Question: ")


def test_there_is_an_end_to_the_tokens_and_to_the_texts_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "MOST_TOKENS", 20)
    monkeypatch.setattr(inspection, "SHOWN_TOKENS", 3)
    monkeypatch.setattr(inspection, "SHOWN_TEXTS", 1)
    texts = [Text(str(place), f"{place} words in it") for place in range(9)]
    found = measured(shaken(attached("toplora")), tmp_path, texts)
    assert found.gates.tokens == 26  # two texts of 13 tokens
    assert found.gates.texts == ["0"]
    assert pq.read_table(tmp_path / "inspection" / "gates.parquet").num_rows == 3 * 6


def test_an_adapter_without_gates_has_updates_only(tmp_path):
    found = measured(shaken(attached("lora")), tmp_path)
    assert (found.gates, found.left_out, len(found.updates)) == (None, {}, 6)
    assert [file.name for file in (tmp_path / "inspection").iterdir()] == ["inspection.json"]


def test_tenslora_has_its_tensors_and_genlora_its_functions(tmp_path):
    tensors = measured(shaken(attached("tenslora")), tmp_path / "t")
    assert [one.title for one in tensors.similarities] == [
        "cosine of the projections' factors",
        "cosine of the layers' factors",
    ]
    assert {one.mode for one in tensors.energies} == {"input", "output", "projection", "layer"}
    functions = measured(shaken(attached("genlora")), tmp_path / "g").functions
    assert len(functions) == 6
    assert read_inspection(tmp_path / "g").functions == functions


def test_a_fusion_has_its_adapters_weights_by_layer(tmp_path):
    for name in ("one", "two"):
        save_adapter(shaken(attached("lora")), tmp_path / name / "adapter")
    runs = [str(tmp_path / name) for name in ("one", "two")]
    model = attach_adapter(tiny_model(), adapter_defaults("fusion")[0] | {"runs": runs}, seed=0)
    bias = getattr(model.base_model, gate_name("b", "model.layers.1"))["default"]
    bias.data += torch.tensor([0.3, -0.1])
    found = measured(model, tmp_path / "run").fusion
    assert found.adapters == ["one", "two"] and found.layers == ["model.layers.0", "model.layers.1"]
    assert found.tokens > 0
    torch.testing.assert_close(torch.tensor(found.mean), torch.tensor([[0.5, 0.5], [0.8, 0.4]]))
    assert found.overall == pytest.approx([0.65, 0.45])
    assert read_inspection(tmp_path / "run").fusion == found


def test_without_extras_doras_updates_are_not_decomposed(tmp_path):
    found = measured(shaken(attached("dora")), tmp_path, extras=False)
    assert all(update.singular_values is None for update in found.updates)
    assert all(update.magnitude > 0 and update.direction > 0 for update in found.updates)


def test_modules_that_cannot_be_shown_are_named_with_the_reason(tmp_path, monkeypatch):
    config = LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"])
    model = shaken(get_peft_model(tiny_model(), config))
    describe = inspection.describe_update

    def fail_once(layer, *given, **how):
        if layer is model.base_model.model.model.layers[0].self_attn.q_proj:
            raise RuntimeError("no such\nformat")
        return describe(layer, *given, **how)

    monkeypatch.setattr(inspection, "describe_update", fail_once)
    found = measured(model, tmp_path)
    assert [update.module for update in found.updates] == ["model.layers.1.self_attn.q_proj"]
    assert found.left_out == {
        "model.layers.0.self_attn.q_proj": "RuntimeError: no such format",
        "model.embed_tokens": "not a linear layer",
    }


def test_a_runs_texts_are_its_prompts_with_the_answers_of_all_tasks_in_turn(tmp_path):
    generated = [Prediction(str(i), f"{i}?", f" {i}", None, "", False) for i in range(2)]
    classified = [Prediction("x", "A text", "yes", "yes", "yes", True, {"yes": 1.0, "no": 0.0})]
    write_predictions(tmp_path / "predictions" / "sums.jsonl", generated)
    write_predictions(tmp_path / "predictions" / "kinds.jsonl", classified)
    assert run_texts(tmp_path, ["sums", "kinds", "absent"]) == [
        Text("sums, row 0", "0? 0"),
        Text("kinds, row x", "A text"),
        Text("sums, row 1", "1? 1"),
    ]


def test_without_answers_the_texts_are_general():
    texts = general_texts()
    assert len(texts) > 3
    assert all(0 < len(one.text) <= 1000 and not one.own for one in texts)
