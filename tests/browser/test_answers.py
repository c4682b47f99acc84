"""What answers in a page without a kernel: menus of figures, and the explorer."""

import base64
import gzip
import json

import pytest
from book_files import pages_with

FILTERS = ["feature", "ablated", "method", "prompts"]


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


def explorer_data(page) -> tuple[dict, list[dict]]:
    """What the explorer of a page holds: its index, and the texts of each feature."""
    index = json.loads(page.locator(".explorer script[type='application/json']").text_content())
    packed = page.locator(".explorer script[data-chunk]").all_text_contents()
    return index, [json.loads(gzip.decompress(base64.b64decode(one))) for one in packed]


def shown(page) -> dict:
    """What the explorer shows, once it has unpacked it."""
    page.wait_for_function(
        "document.querySelector('.explorer').dataset.shown?.startsWith(document.querySelector("
        "'[data-choose=setting]').value + ' ')"
    )
    values = {one: page.locator(f"[data-choose={one}]").input_value() for one in [*FILTERS, "setting", "prompt"]}
    values["texts"] = page.locator(".explorer-panels section").all_text_contents()
    return values | {"title": page.locator(".explorer-title").text_content(), "query": page.evaluate("location.search")}


@pytest.mark.parametrize("page_path", pages_with('class="explorer"'))
def test_the_explorer_shows_what_was_computed(page_path, open_page):
    opened = open_page(page_path)
    page, choose = opened.page, lambda name, value: opened.page.locator(f"[data-choose={name}]").select_option(value)
    index, chunks = explorer_data(page)
    several = len({model for model, _ in index["features"]}) > 1
    seen = set()
    for number in {0, 1, len(chunks) - 1}:
        chunk, (model, role) = chunks[number], index["features"][number]
        text = lambda n, chunk=chunk: "".join(chunk["vocabulary"][token] for token in chunk["texts"][n])  # noqa: E731
        choose("feature", f"{model}: {role}" if several else role)
        own = [setting for setting in index["settings"] if setting[1] == number and setting[2] == "feature"]
        for identity, *_, label, shares in (own[0], own[-1]):
            split = next(iter(shares))
            choose("prompts", split)
            choose("setting", identity)
            for place in (0, -1):
                prompt_number, prompt, completion, verdict, *_, strip = chunk["answers"][identity][split][place]
                choose("prompt", str(prompt_number))
                now = shown(page)
                assert now["setting"] == identity and label in now["title"] and str(shares[split][0]) in now["title"]
                _, prompt_text, *others = chunk["prompts"][prompt]
                assert page.locator(".explorer-text").text_content() == text(prompt_text)
                assert page.locator(".explorer-strip").text_content().replace("⏎", "") == text(prompt_text) + text(completion)
                for panel, (written, said) in zip(now["texts"], [[completion, verdict], *others], strict=True):
                    assert panel.endswith(index["verdicts"][said] + (text(written).strip() or "(empty completion)"))
                marked = page.locator(".explorer-strip span[style]").count()
                assert marked == (0 if strip is None else len(chunk["strips"][strip]) // 2)
                seen.add(now["title"] + now["texts"][0])
    assert len(seen) > 3
    assert opened.problems == []


@pytest.mark.parametrize("page_path", pages_with('class="explorer"'))
def test_an_address_opens_what_it_was_copied_from(page_path, open_page):
    page = open_page(page_path).page
    first = shown(page)
    page.locator("[data-choose=feature]").select_option(index=1)
    page.locator("[data-choose=method]").select_option(index=1)
    page.locator("[data-choose=setting] option").last.evaluate(
        "(o) => { o.selected = true; o.closest('select').dispatchEvent(new Event('input')); }"
    )
    page.locator("[data-choose=prompt]").select_option(index=2)
    sent = shown(page)
    assert all(sent[name] != first[name] for name in ("feature", "method", "setting", "prompt", "texts", "query"))
    again = open_page(page_path).page
    again.goto(page_path.as_uri() + sent["query"])
    assert shown(again) == sent
    again.goto(page_path.as_uri() + first["query"])
    assert shown(again) == first
    again.goto(page_path.as_uri() + "?setting=none&prompt=99999")
    assert shown(again)["setting"] == first["setting"]
    note = again.locator("[data-say=note]").text_content()
    assert "Not on this page: setting “none”" in note and "There is no prompt 99999 here" in note


@pytest.mark.parametrize("page_path", pages_with('class="explorer"'))
def test_dots_and_list_are_one(page_path, open_page):
    page = open_page(page_path).page
    before = shown(page)
    listed = page.locator("[data-choose=setting] option").evaluate_all("(all) => all.map((one) => one.value)")
    dots = page.locator(".explorer-plot [data-setting]")
    assert sorted(dots.evaluate_all("(all) => all.map((one) => one.dataset.setting)")) == sorted(listed)
    plot = page.locator(".explorer-plot")
    plot.scroll_into_view_if_needed()
    lonely = plot.evaluate("""(plot) => {
      const place = (dot) => ["cx", "cy"].map((name) => +dot.getAttribute(name));
      const at = [...plot.querySelectorAll("[data-setting]")].map((dot) => [...place(dot), dot]);
      const free = ([x, y, one]) => at.every(([a, b, other]) => other === one || Math.hypot(a - x, b - y) > 3);
      const [x, y, dot] = at.filter(free).at(-1);
      return { x, y, setting: dot.dataset.setting };
    }""")
    page.mouse.move(plot.bounding_box()["x"] + lonely["x"], plot.bounding_box()["y"] + lonely["y"])
    assert "fluent stories, edit" in page.locator(".explorer-tip").text_content()
    page.mouse.down()
    page.mouse.up()
    assert shown(page)["setting"] == lonely["setting"] != before["setting"]


@pytest.mark.parametrize("page_path", pages_with('class="explorer"'))
def test_the_explorer_is_used_by_keyboard(page_path, open_page):
    page = open_page(page_path).page
    before = shown(page)
    page.locator("[data-choose=prompts]").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.choose") == "setting"
    page.keyboard.press("Home")
    first = shown(page)
    page.keyboard.press("ArrowDown")
    second = shown(page)
    page.keyboard.press("ArrowDown")
    assert len({one["setting"] for one in (first, second, shown(page))}) == 3
    assert first["title"] != second["title"] and before["query"] != second["query"]
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.choose") == "prompt"
    page.keyboard.press("ArrowDown")
    assert shown(page)["prompt"] != second["prompt"]
