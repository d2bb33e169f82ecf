import re
from dataclasses import asdict
from xml.etree import ElementTree

import pytest

from tests.report.made_up import made_up_metrics, made_up_report, task_score
from toplora_train.report.charts import BASE, score_chart, training_chart

TASKS = made_up_report(tasks={"a": task_score(), "b_task": task_score(base=None)}).to_dict()[
    "tasks"
]


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize(
    "draw",
    [
        lambda inline: training_chart(made_up_metrics(), inline=inline),
        lambda inline: training_chart(made_up_metrics(1, validation_loss=0.4), inline=inline),
        lambda inline: training_chart(made_up_metrics(3, loss=None), inline=inline),
        lambda inline: score_chart(TASKS, inline=inline),
    ],
)
def test_a_chart_is_well_formed_svg_in_the_pages_colours(draw, inline):
    text = draw(inline)
    ElementTree.fromstring(text)
    assert "#010203" not in text
    assert ("currentColor" in text) == inline
    assert text.startswith("<svg") == inline


def test_equal_numbers_give_equal_charts():
    assert score_chart(TASKS, inline=True) == score_chart(TASKS, inline=True)
    assert training_chart(made_up_metrics(), inline=False) == training_chart(
        made_up_metrics(), inline=False
    )


def test_two_charts_on_a_page_share_no_id_and_miss_none():
    pictures = [training_chart(made_up_metrics(), inline=True), score_chart(TASKS, inline=True)]
    ids = [set(re.findall(r'\bid="([^"]+)"', picture)) for picture in pictures]
    assert ids[0]
    assert not ids[0] & ids[1]
    for own, picture in zip(ids, pictures, strict=True):
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', picture))
        assert used
        assert used <= own


def test_an_inline_chart_takes_the_width_of_its_page():
    opening = re.match(r"<svg[^>]*>", score_chart(TASKS, inline=True))[0]
    assert "viewBox=" in opening
    assert not re.search(r"\b(width|height)=", opening)


def test_text_is_kept_as_text_and_every_task_is_named():
    texts = "".join(ElementTree.fromstring(score_chart(TASKS, inline=True)).itertext())
    assert "b_task" in texts
    assert "95 % interval" in texts


def test_a_base_model_that_was_not_evaluated_has_no_bar():
    count = {base: score_chart({"a": TASKS[base]}, inline=True).count(BASE) for base in TASKS}
    assert count["b_task"] < count["a"]


def test_a_validation_loss_is_plotted_if_measured():
    with_it = training_chart(made_up_metrics(5, validation_loss=0.5), inline=True)
    assert "validation loss" in with_it
    assert "validation loss" not in training_chart(made_up_metrics(5), inline=True)


def test_a_name_with_dollar_signs_and_controls_is_drawn_as_it_is():
    chart = score_chart({"$x^2$ \x1b[31m": asdict(task_score())}, inline=False)
    assert "$x^2$" in chart
    assert "\x1b" not in chart
