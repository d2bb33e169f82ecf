import re
from io import StringIO

from rich.console import Console

from toplora_train.jobs import plan
from toplora_train.jobs.material import prepare
from toplora_train.jobs.plan import make_plan
from toplora_train.report.plan import show_plan


def test_the_plan_counts_what_training_would_do(make_run):
    config = make_run()
    made = make_plan(config, prepare(config, weights=False))
    # r n + m r + n r + r for each of q, k, v in two layers: n 64, m 64, 32, 32
    assert made.trainable == {
        "q_proj": 2 * (8 * 64 + 64 * 8 + 64 * 8 + 8),
        "k_proj": 2 * (8 * 64 + 32 * 8 + 64 * 8 + 8),
        "v_proj": 2 * (8 * 64 + 32 * 8 + 64 * 8 + 8),
    }
    assert made.steps == 4
    assert made.tests == {"arithmetic": 3}
    text = "".join(token for token, _ in made.example)
    learned = "".join(token for token, is_learned in made.example if is_learned)
    assert text.endswith(learned)
    assert learned.endswith("<eos>")
    assert "### Response" not in learned


def test_the_plan_is_shown_and_nothing_is_written(make_run, tmp_path, capsys):
    config = make_run()
    plan.run(config)
    shown = capsys.readouterr().out
    assert "nothing was trained" in shown
    assert "q_proj" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_log_shows_the_mask_as_well(make_run):
    config = make_run()
    console = Console(file=StringIO(), width=100)
    show_plan(make_plan(config, prepare(config, weights=False)), console)
    assert re.search(r"\[\d", console.file.getvalue())  # the answer begins with a number


def test_the_plan_says_how_long_the_products_alone_take(make_run):
    config = make_run()
    made = make_plan(config, prepare(config, weights=False))
    body = made.base_parameters - 2 * 258 * 64  # the embeddings on both sides
    assert made.flops > 4 * body * made.tokens
    assert made.flops_per_second > 0
