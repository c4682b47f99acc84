"""Text of prompts and models is shown letter by letter: no script of it runs, no formula is set, wherever it stands."""

import itertools
import json
import sys

import pandas as pd
import pytest
from book_files import BOOK, ROOT, book_pages

from crosscoder_utils.display import (
    bars_by_point,
    condition_scatter,
    effect_scatter,
    explorer,
    heat_maps,
    method_dots,
    overshoot_scatter,
    sweep_curves,
    texts_table,
    token_strip,
)

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from plotly_figures import SCRIPTS, figure_html

EVIL = """<script>window.ran = 1</script><img src=x onerror="window.ran = 2"> $x^2$ <b>it's</b> & &lt; %{y} --><!-- </script>"""


def table() -> pd.DataFrame:
    """A sweep whose texts and names are all evil."""
    rows = [
        {"point": float(point), "strength": scale, "prompt_index": prompt, "setting": 2 * point + int(scale)}
        for point, scale, prompt in itertools.product((0, 1), (1.0, 2.0), (0, 1))
    ]
    numbers = {"cross_entropy": 1.0, "completion_cross_entropy": 1.0, "overshoot": 1.0, "relative_edit_norm": 0.1}
    numbers |= {"activation_before": 1.0, "activation_after": 0.0, "is_story": True, "says_phrase": False}
    texts = {"prompt": EVIL, "completion": EVIL, "role": EVIL, "ablated": EVIL, "label": EVIL, "method": "single layer"}
    return pd.DataFrame(rows).assign(**numbers, **texts)


SHARES = {"relative_edit_norm": 0.5, "stories": 0.5, "low": 0.2, "high": 0.8, "random_highest": 0.1}


def figures() -> list:
    statistics = pd.DataFrame({EVIL: [1.0, 2.0], "other": [1.0, 3.0]})
    return [
        sweep_curves(table(), "role", EVIL, {EVIL: 2.0}),
        heat_maps(table()),
        overshoot_scatter(table().assign(method=EVIL)),
        condition_scatter(statistics, EVIL, "other", {EVIL: 0}),
        bars_by_point({EVIL: [1.0, 2.0], "b": [1.0, 2.0]}, EVIL, (0, 1)),
        effect_scatter(pd.DataFrame({"feature": [0], "kl_decoder": [1.0], "kl_encoder": [2.0]}), {EVIL: 0}),
        method_dots(pd.DataFrame([SHARES | {"dictionary": EVIL, "feature": 0, "kind": EVIL, "label": EVIL}])),
    ]


@pytest.fixture
def opened(open_page, tmp_path):
    """The evil texts on top of a page of the book which has formulas, with the scripts of those and of figures."""
    source = next(page for page in book_pages() if "mathjax/tex" in page.read_text())
    scripts = SCRIPTS if "plotly.min.js" not in source.read_text() else ()
    head = "<head>" + "".join(f'<script src="{(BOOK / "_static" / script).as_uri()}"></script>' for script in scripts)
    parts = [token_strip([EVIL, "b"], [1.0, 0.0], EVIL).data, texts_table(pd.DataFrame({EVIL: [EVIL, [EVIL]]})).data]
    for figure in figures():
        content = json.loads(figure.update_layout(meta={"alt": EVIL}).to_json())
        parts.append(figure_html(content))
    parts += [explorer(table(), missing=EVIL).data, r'<div class="math notranslate nohighlight">\[a^2\]</div>']
    before, start, after = source.read_text().partition('<article class="bd-article">')
    page = f'{before}{start}<div id="evil">{"".join(parts)}</div>{after}'
    page = page.replace("<head>", head, 1)
    # Beside the book's own files, as the page it was made of.
    for shared in (*BOOK.glob("_*"), BOOK / "searchindex.js"):
        (tmp_path / shared.name).symlink_to(shared)
    path = tmp_path / source.relative_to(BOOK).parent / "evil.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)
    opened = open_page(path)
    opened.page.wait_for_selector("#evil mjx-container", state="attached")  # formulas have been looked for
    yield opened
    assert opened.page.evaluate("window.ran") is None
    assert opened.page.locator("#evil mjx-container").count() == 1, "a formula was made of a text"
    assert opened.problems == []


def literal(texts: list[str]) -> list[str]:
    """Without blanks, since labels break into lines."""
    return ["".join(text.split()) for text in texts]


def test_views_are_literal(opened):
    [evil] = literal([EVIL])
    page = opened.page.locator("#evil")
    for selector in (".tokens strong", ".tokens span >> nth=0", "table.texts th", "table.texts td >> nth=0"):
        assert literal([page.locator(selector).text_content()]) == [evil]
    assert literal([page.locator("table.texts td >> nth=1").text_content()]) == literal([str([EVIL])])
    page.locator(".explorer[data-shown]").wait_for()
    assert page.locator(".explorer-text").text_content() == EVIL
    assert page.locator(".explorer-completion").all_text_contents() == [EVIL]
    assert page.locator(".explorer-strip").text_content() == EVIL + EVIL
    assert page.locator("[data-choose=feature] option").all_text_contents() == [EVIL]
    assert page.locator("[data-choose=ablated] option").all_text_contents() == [EVIL]
    assert literal([EVIL])[0] in literal([page.locator(".explorer-title").text_content()])[0]
    assert page.locator(".explorer-missing").text_content() == EVIL
    assert page.locator(".plotly-figure").first.get_attribute("aria-label") == EVIL


# Of each of `figures`, the elements with its evil texts.
LABELS = [
    (".legendtext", ".g-xtitle"),
    (),
    (),
    (".g-xtitle",),
    (".legendtext >> nth=0", ".g-ytitle"),
    (),
    (".legendtext >> nth=1",),
]


def test_labels_of_figures_are_literal(opened):
    [evil] = literal([EVIL])
    page = opened.page.locator("#evil")
    for figure, selectors in enumerate(LABELS):
        for selector in selectors:
            texts = literal(page.locator(".plotly-figure").nth(figure).locator(selector).all_text_contents())
            assert texts and all(evil in text for text in texts), (figure, selector, texts)
    assert evil in literal([page.locator(".figure-menus option").text_content()])[0]


def test_hover_texts_are_literal(opened):
    [evil] = literal([EVIL])
    drawing = opened.page.locator("#evil .plotly-figure .js-plotly-plot").first
    drawing.evaluate("(one) => Plotly.Fx.hover(one, [{ curveNumber: 1, pointNumber: 0 }])")
    shown = literal([drawing.locator(".hoverlayer .hovertext").text_content()])[0]
    assert shown.count(evil) == 3, shown  # the curve's name, the setting and the completion
