import json
import sys
from pathlib import Path

import pytest
import torch

from tests.report.made_up import made_up_report
from tests.run.conftest import tiny_run
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.saving import save_adapter
from toplora_train.config.errors import UserError
from toplora_train.config.resolved import write_config
from toplora_train.launch import evaluate
from toplora_train.models.tiny import tiny_model, tiny_tokenizer
from toplora_train.report.record import write_report
from toplora_train.run import harness

TASK = """
task: odd
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}\\nAnswer:"
doc_to_choice: [" yes", " no"]
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of the tiny model, and the user's own task in the harness' format."""
    config = tiny_run(tmp_path / "run")
    (tmp_path / "run").mkdir()
    write_config(config, tmp_path / "run" / "config.yaml")
    write_report(tmp_path / "run" / "report.json", made_up_report())
    model = attach_adapter(tiny_model(), config.adapter, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    save_adapter(model, tmp_path / "run" / "adapter")
    rows = tmp_path / "rows.jsonl"
    lines = [{"question": f"Is {i} odd?", "answer": 1 - i % 2} for i in range(12)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = tmp_path / "own"
    own.mkdir()
    (own / "odd.yaml").write_text(TASK.replace("ROWS", str(rows)))
    return tmp_path / "run"


def by_hand(model) -> float:
    """The share of rows whose answer is the more probable of the two."""
    tokenizer, right = tiny_tokenizer(), 0
    for i in range(12):
        prompt = tokenizer(f"Is {i} odd?\nAnswer:")["input_ids"]
        scores = []
        for answer in (" yes", " no"):
            ids = tokenizer(answer)["input_ids"]
            with torch.inference_mode():
                logs = model(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
            scores.append(sum(logs[len(prompt) - 1 + k, t].item() for k, t in enumerate(ids)))
        right += scores.index(max(scores)) == 1 - i % 2
    return right / 12


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the harness' own
def test_a_harness_task_is_evaluated_with_base_and_tuned_model(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    pytest.importorskip("lm_eval", reason="the lm-eval extra is not installed")
    words = [f"run={run}", "harness=[odd]", f"config_dir={run.parent / 'own'}"]
    monkeypatch.setattr(sys, "argv", ["toplora-eval", *words])
    assert evaluate.main() == 0, capsys.readouterr().err
    found = json.loads((run / "evaluations" / "harness-odd" / "harness.json").read_text())
    from toplora_train.run.prepare.adapted_model import load_adapted

    tuned, _ = load_adapted(tiny_run(run), run)
    assert found["tuned"]["odd"]["acc,none"] == pytest.approx(by_hand(tuned))
    assert found["base"]["odd"]["acc,none"] == pytest.approx(by_hand(tiny_model().eval()))
    shown = capsys.readouterr().out
    assert "odd acc: base " in shown
    assert "(standard error " in shown
    assert evaluate.main() == 2
    assert "already exists" in capsys.readouterr().err


@pytest.mark.slow
def test_an_unknown_task_is_refused_with_the_nearest(run: Path):
    pytest.importorskip("lm_eval", reason="the lm-eval extra is not installed")
    with pytest.raises(UserError, match="no task 'arc_eazy'; did you mean 'arc_easy'"):
        harness.evaluate_harness(tiny_run(run), run, ["arc_eazy"], name="x", limit=None)


def test_without_the_harness_the_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(harness, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install 'toplora-train\[lm-eval\]'"):
        harness.evaluate_harness(tiny_run(run), run, ["arc_easy"], name="x", limit=None)


def test_settings_that_the_harness_decides_itself_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    words = ["toplora-eval", f"run={run}", "harness=[piqa]", "multiple_choice=choose"]
    monkeypatch.setattr(sys, "argv", words)
    assert evaluate.main() == 2
    error = capsys.readouterr().err
    assert "so multiple_choice= has no effect with it" in error
