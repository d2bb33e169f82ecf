import json

from safetensors.torch import load_file

from toplora_train.report.metrics_file import KEYS


def test_a_run_writes_the_documented_files(trained):
    _, folder = trained
    for name in [
        "metrics.jsonl",
        "report.json",
        "report.md",
        "report.html",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/README.md",
        "adapter/tokenizer.json",
        "checkpoints/step-00000004/manifest.json",
        "predictions/arithmetic.jsonl",
        "predictions/arithmetic.base.jsonl",
    ]:
        assert (folder / name).is_file(), name
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert metrics[0].keys() >= set(KEYS)
    report = json.loads((folder / "report.json").read_text())
    assert report["status"] == "completed"
    assert report["reload"] == {
        "max_abs_logit_difference": 0.0,
        "missing": [],
        "unexpected": [],
        "same": True,
    }
    assert report["train"]["loss_last"] < report["train"]["loss_first"]
    assert report["adapter"]["trainable_parameters"] == sum(
        tensor.numel()
        for tensor in load_file(folder / "adapter" / "adapter_model.safetensors").values()
    )
