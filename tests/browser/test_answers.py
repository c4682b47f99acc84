"""What answers in a page without a kernel: menus of figures, and the explorer."""

import json

import pytest
from book_files import book_pages, pages_with

CHOICES = ["role", "ablated", "method", "prompt"]


@pytest.mark.parametrize("page_path", pages_with('"updatemenus"'))
def test_menus_change_what_is_drawn(page_path, open_page):
    opened = open_page(page_path)
    menus = opened.page.locator(".figure-menus select")
    assert menus.count() > 0
    state = """(select) => {
      const drawing = select.closest(".plotly-figure").querySelector(".js-plotly-plot");
      return [drawing.data.map((trace) => trace.visible ?? true), drawing.querySelector(".cartesianlayer").innerHTML];
    }"""
    for menu in menus.all():
        seen = []
        for i in range(menu.locator("option").count()):
            menu.select_option(index=i)
            opened.settle()
            seen.append(json.dumps(menu.evaluate(state)))
        assert len(set(seen)) == len(seen) > 1
    assert opened.problems == []


@pytest.mark.parametrize("page_path", pages_with('class="explorer"'))
def test_the_explorer_shows_what_was_computed(page_path, open_page):
    opened = open_page(page_path)
    shown = opened.page.locator(".explorer")
    data = json.loads(shown.locator("script[type='application/json']").text_content())
    control = {name: shown.locator(f"[data-choose={name}]") for name in [*CHOICES, "strength"]}
    seen = set()
    for choice in {(c["role"], c["method"]): c for c in data["choices"]}.values():
        for name in ("role", "ablated", "method"):
            control[name].select_option(choice[name])
        for prompt in (0, len(data["prompts"]) - 1):
            control["prompt"].select_option(str(prompt))
            for strength in (0, len(choice["settings"]) - 1):
                control["strength"].fill(str(strength))
                expected = choice["settings"][strength]
                number, phrase, *values = expected["answers"][prompt]
                completion = data["texts"][number]
                assert shown.locator("output").text_content() == expected["label"]
                assert shown.locator(".explorer-text").text_content() == data["prompts"][prompt] + (completion or "(nothing)")
                assert shown.locator("mark").text_content() == (completion or "(nothing)")
                said, *figures = shown.locator(".explorer-figures dd").all_text_contents()
                assert said == ("said" if phrase else "not said")
                assert [None if f == "–" else float(f) for f in figures] == values
                seen.add((completion, *figures))
    assert len(seen) > 1
    assert opened.problems == []


def test_the_explorer_is_used_by_keyboard(open_page):
    [page_path] = [page for page in book_pages() if 'class="explorer"' in page.read_text()]
    page = open_page(page_path).page
    strength = page.locator("[data-choose=strength]")
    before = strength.get_attribute("aria-valuetext")
    strength.press("End")
    last = strength.get_attribute("aria-valuetext")
    strength.press("Home")
    assert len({before, last, strength.get_attribute("aria-valuetext")}) == 3
    assert page.locator("output").text_content() == strength.get_attribute("aria-valuetext")
