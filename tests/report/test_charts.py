import re
from xml.etree import ElementTree

from toplora_train.report.charts import TUNED, pareto_chart, rate_chart


def method(name, average, cost):
    ci95 = None if average == 0.5 else (average - 0.1, average + 0.1)
    return {"name": name, "average": average, "cost": cost, "average_ci95": ci95}


def test_the_methods_on_the_pareto_front_are_filled():
    methods = [method("lo$ra$", 0.5, 10), method("b", 0.4, 20), method("c", 0.6, 20)]
    text = pareto_chart(methods, "cost", "cost in $x$")
    assert text == pareto_chart(methods, "cost", "cost in $x$")
    assert "#010203" not in text and "currentColor" in text
    words = [word.strip() for word in ElementTree.fromstring(text).itertext()]
    assert {"1", "2", "3", "1  lo$ra$", "2  b", "3  c"} <= {*words}
    assert text.count(f"fill: {TUNED}") == 2


def test_each_adapter_has_a_learning_rate_curve_with_its_best_rate():
    points = [{"rate": lr, "mean": lr, "values": [lr, lr]} for lr in (1e-4, 1e-3)]
    curves = {name: {"best": 1e-3, "points": points} for name in ("lora", "d$o$ra")}
    text = rate_chart({"metric": "accuracy", "curves": curves})
    words = "".join(ElementTree.fromstring(text).itertext())
    assert "held-out accuracy" in words
    assert "1e-4" in words
    assert "d$o$ra" in words


RATES = {
    "metric": "accuracy",
    "curves": {"lora": {"best": 1e-3, "points": [{"rate": 1e-3, "mean": 0.5, "values": [0.5]}]}},
}


def test_long_names_leave_room_for_the_chart(recwarn):
    settings = [f"adapter.gate.setting_{number}=value" for number in range(7)]
    names = [" ".join(["toplora", *settings, f"{number}"]) for number in range(6)]
    pareto_chart([method(one, 0.6, place) for place, one in enumerate(names)], "cost", "cost")
    rate_chart({"metric": "accuracy", "curves": dict.fromkeys(names, RATES["curves"]["lora"])})
    assert not recwarn, "matplotlib found no room for the axes"


def test_two_charts_on_a_page_share_no_id_and_miss_none():
    pictures = [pareto_chart([method("a", 0.6, 20)], "cost", "cost"), rate_chart(RATES)]
    ids = [set(re.findall(r'\bid="([^"]+)"', picture)) for picture in pictures]
    assert ids[0]
    assert not ids[0] & ids[1]
    for own, picture in zip(ids, pictures, strict=True):
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', picture))
        assert used
        assert used <= own


def test_a_chart_takes_the_width_of_its_page():
    opening = re.match(r"<svg[^>]*>", rate_chart(RATES))[0]
    assert "viewBox=" in opening
    assert not re.search(r"\b(width|height)=", opening)
