"""``report.html`` in Chromium, from disk and without a network; run by ``make test-browser``."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.report.inspected import gate, inspected, inspected_large, inspected_otherwise
from tests.report.made_up import made_up_answers, made_up_run
from toplora_train.report.pages import rewrite_pages, write_inspection_page

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
BASE, TUNED = made_up_answers(120)
FIXED = [one.id for one, old in zip(TUNED, BASE, strict=True) if one.correct and not old.correct]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium, such as Debian's package chromium")
    if find_spec("playwright") is None:
        pytest.skip("needs the driver of the browser: pip install 'toplora-train[browser]'")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    run = made_up_run(tmp_path_factory.mktemp("run"), rows=120)
    inspected(run)
    return rewrite_pages(run)


@pytest.fixture
def opened(browser, report):
    """Opens the report; whatever it requests, logs or raises fails the test."""
    contexts, unwanted = [], []

    def open_page(viewport=WIDE, path=report, **how):
        context = browser.new_context(viewport=viewport, offline=True, **how)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: unwanted.append(message.text))
        page.on("pageerror", lambda error: unwanted.append(str(error)))
        page.on("dialog", lambda dialog: unwanted.append(dialog.message))
        page.on("request", lambda request: unwanted.append(request.url))
        page.goto(path.as_uri())
        assert unwanted.pop(0) == path.as_uri()
        if how.get("java_script_enabled", True) and page.locator("#answers").count():
            page.locator(".curves svg").first.wait_for()
            page.locator("#answers").scroll_into_view_if_needed()
            page.locator("#answers tbody tr").first.wait_for()
        if how.get("java_script_enabled", True):
            page.locator("#adapter").scroll_into_view_if_needed()
            page.locator(".heat svg").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert unwanted == []


def rows(page):
    return page.locator("#answers tbody tr")


def choose(page, text):
    page.locator(".choice", has_text=text).first.click()


def test_what_the_adapter_fixed_and_broke_are_the_first_filters(opened):
    page = opened()
    names = page.locator("#answers .choice").all_inner_texts()
    assert [name.split()[0] for name in names[:2]] == ["fixed", "broken"]
    assert page.locator("#found").inner_text() == f"50 of {len(FIXED)} shown"
    choose(page, "unreadable")
    assert rows(page).count() == 12
    assert "no answer found" in rows(page).first.inner_text()
    choose(page, "all")
    assert rows(page).count() == 50
    page.get_by_role("button", name="show 50 more").click()
    page.get_by_role("button", name="show 20 more").click()
    assert rows(page).count() == 120
    assert "120 of 120 shown" in page.locator("#found").inner_text()


def test_a_row_opens_to_prompt_label_and_both_answers_by_the_keyboard(opened):
    page = opened()
    choose(page, "all")
    page.get_by_role("searchbox").fill("box 5 has")
    assert rows(page).count() == 1
    button = rows(page).first.get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    texts = page.locator(".detail pre").all_inner_texts()
    assert texts == [TUNED[5].prompt, BASE[5].output, TUNED[5].output, TUNED[5].label]
    page.keyboard.press("Enter")
    assert page.locator(".detail").count() == 0


def test_a_heading_sorts_up_and_down(opened):
    page = opened()
    choose(page, "all")
    heading = page.get_by_role("button", name="length")
    lengths = []
    for _ in range(2):
        heading.click()
        cells = page.locator("#answers tbody .length").all_inner_texts()
        lengths.append([int(cell) for cell in cells])
    assert lengths[0] == sorted(lengths[0])
    assert lengths[1] == sorted(lengths[1], reverse=True)
    assert heading.locator("..").get_attribute("aria-sort") == "descending"


def test_hostile_text_is_shown_and_never_run(opened):
    page = opened()
    choose(page, "all")
    page.get_by_role("searchbox").fill("<script>")
    rows(page).first.get_by_role("button").click()
    output = page.locator(".detail pre").nth(2).inner_text()
    assert output.startswith("<script>document.title='run'</script></style></script><img src=x")
    assert all(text in output for text in ("\\x1b[31m", "\\u202e", "\\x00", "\U0001f600"))
    assert page.locator("#answers img").count() == 0
    assert page.title().startswith("Base ")


def test_the_curves_show_their_values_to_mouse_and_keyboard(opened):
    page = opened()
    assert page.locator(".curves svg").count() == 6
    said, first = page.locator("#at"), page.locator(".curves svg").first
    assert said.inner_text().startswith("step 600 ")
    assert first.locator(".resumed").count() == 1
    assert first.locator(".spike").count() == 1
    assert first.locator("circle.points").count() == 6
    page.get_by_role("slider", name="values at").focus()
    page.keyboard.press("Home")
    assert said.inner_text().startswith("step 10 ")
    box = first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    assert 250 < int(said.inner_text().split()[1]) < 350
    spoken = page.get_by_role("slider", name="values at").get_attribute("aria-valuetext")
    assert spoken.startswith(said.inner_text())
    assert "loss per token: training" in spoken
    choose(page, "time")
    assert page.locator(".curves svg").first.get_attribute("aria-label") == "loss per token by time"


def numbers_under_tokens(page):
    return [float(text) for text in page.locator(".token small").all_inner_texts()]


def test_the_heat_map_shows_a_quantity_and_a_click_chooses_the_module(opened):
    page = opened()
    place, heat = page.locator("#place"), page.locator(".heat")
    assert heat.locator(".cell").count() == 4
    assert place.inner_text().startswith("model.layers.1.self_attn.v_proj")  # the largest update
    assert "norm relative to the weight 0.04" in place.inner_text()
    choose(page, "spread of the gate")
    assert heat.locator("svg").get_attribute("aria-label") == "spread of the gate, by layer"
    heat.locator(".cell").first.click()
    assert place.inner_text().startswith("model.layers.0.self_attn.q_proj")
    assert page.locator(".pictures .bar").count() == 2  # singular values
    page.locator("#layer").focus()
    page.keyboard.press("End")
    assert place.inner_text().startswith("model.layers.1.self_attn.q_proj")


def test_each_token_has_the_gate_of_the_chosen_layer_module_and_direction(opened):
    page = opened()
    choose(page, "q_proj")
    page.locator("#layer").focus()
    page.keyboard.press("Home")
    page.locator("#direction").select_option(index=1)
    tokens = page.locator(".token")
    assert tokens.locator("span").all_inner_texts() == ["The", " box", "\\x1b[31m", "<b>"]
    gates = [gate(0, position, 0)[0] for position in range(4)]
    assert numbers_under_tokens(page) == pytest.approx(gates, rel=5e-3)
    below = tokens.evaluate_all("all => all.map(one => one.classList.contains('below'))")
    assert below == [one < 1 for one in gates]
    colours = tokens.locator("span").evaluate_all(
        "all => all.map(one => getComputedStyle(one).backgroundColor)"
    )
    assert len(set(colours)) == len({round(one, 6) for one in gates})
    page.locator("#direction").select_option(index=2)
    assert numbers_under_tokens(page) == pytest.approx(
        [gate(0, p, 0)[1] for p in range(4)], rel=5e-3
    )
    choose(page, "v_proj")
    assert numbers_under_tokens(page) == pytest.approx(
        [gate(0, p, 1)[1] for p in range(4)], rel=5e-3
    )
    page.locator("#text").select_option(index=1)
    assert tokens.locator("span").all_inner_texts() == ["\\u202eYes", "."]
    assert page.locator(".spread .direction").count() == 2
    page.locator(".spread .direction").first.click()
    assert page.locator("#direction").input_value() == "0"
    page.locator(".gate-values summary").click()
    assert page.locator(".gate-values tbody tr").count() == 2


def test_an_adapter_without_a_run_has_the_same_pictures(opened, tmp_path):
    inspected(tmp_path)
    page = opened(path=write_inspection_page(tmp_path))
    assert page.locator("#answers").count() == 0
    assert page.locator(".heat .cell").count() == 4
    assert page.locator(".token").count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["desk", "phone"])
def test_axe_finds_no_violation(opened, viewport, scheme):
    page = opened(viewport, color_scheme=scheme)
    rows(page).first.get_by_role("button").click()
    assert_accessible(page)


def assert_accessible(page):
    for closed in page.locator("details:visible").all():
        closed.locator("summary").click()
    axe = Path(find_spec("axe_playwright_python").submodule_search_locations[0]) / "axe.min.js"
    page.evaluate(axe.read_text())
    found = page.evaluate("axe.run()")
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
    assert len(found["passes"]) > 20


def test_changes_tensors_and_functions_are_drawn_and_stand_in_tables(opened, tmp_path):
    inspected_otherwise(tmp_path)
    page = opened(PHONE, path=write_inspection_page(tmp_path))
    titles = page.locator(".pictures figcaption").all_inner_texts()
    assert [title.split("\n")[0].split(" of ")[0] for title in titles] == [
        "singular values",
        "functions",
        "functions",
        "change",
        "energy by direction",
        "cosine",
    ]
    assert page.locator(".pictures circle").count() == 3
    assert page.locator(".pictures .cell").count() == 3 + 4
    assert page.locator(".cell.negative").count() == 2
    assert page.locator(".pictures path.thin").count() == 2 * 2
    assert "model.embed_tokens is not shown: not a linear layer" in page.inner_text("#adapter")
    assert_accessible(page)
    assert page.locator(".values-of-A tbody tr").count() == 3
    page.locator("#layer").focus()
    page.keyboard.press("Home")
    assert "not kept for this module" in page.locator(".pictures").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_on_a_phone_nothing_is_cut_and_text_is_legible(opened):
    page = opened(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for wide in page.locator(".scores, .heat svg, .tokens, .spread svg").all():
        box = wide.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg text')].map(one => one.getBoundingClientRect().height)"
    )
    assert min(sizes) > 11


def test_without_scripts_the_page_says_what_it_cannot_show(opened):
    page = opened(java_script_enabled=False)
    notes = " ".join(page.locator(".missing").all_inner_texts())
    assert "curves are drawn by the page's script" in notes
    assert "predictions/ has the answers" in notes
    assert page.locator("#training .values tbody tr").count() == 60
    assert page.locator("#adapter .values tbody tr").count() == 4
    assert page.locator(".controls:visible").count() == 0


def test_paper_shows_curves_in_dark_ink_and_no_controls(opened):
    page = opened(color_scheme="dark")
    page.emulate_media(media="print")
    assert page.locator(".controls:visible").count() == 0
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(29, 37, 48)"
    assert page.locator(".curves svg:visible").count() == 6


def test_thousands_of_answers_and_steps_fit_into_three_megabytes(opened, tmp_path, record_property):
    run = made_up_run(tmp_path / "large", rows=5000, steps=5000)
    inspected_large(run)
    path = rewrite_pages(run)
    assert path.stat().st_size < 3_000_000
    page = opened(path=path)
    assert rows(page).count() == 50
    timing = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    record_property("loaded after ms", page.evaluate(timing))
