"""Sphinx extension: draw Plotly figures without a network.

Plotly 7 notebooks hold a figure as JSON only, which myst-nb leaves out. This writes the JSON into the page and draws it
with one plotly.min.js that all pages share, taken from the installed plotly package.
"""

import html
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import plotly
from docutils import nodes
from myst_nb.core.render import load_mime_renders

MIME_TYPE = "application/vnd.plotly.v1+json"
CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "typesetMath": False,  # a text with dollar signs is no formula
    "modeBarButtonsToRemove": ["sendChartToCloud", "lasso2d", "select2d"],
}


SCRIPTS = ("plotly.min.js", "downloads.js", "download_figures.js", "draw_figures.js")


def figure_html(content):
    """A figure as JSON, for draw_figures.js to draw, with the description that `show` put into it for screen readers.

    Its role is "figure" and not "img", in which the menus and buttons would be hidden from those who read the description.
    """
    figure = {"data": content["data"], "layout": content["layout"], "config": CONFIG}
    height = int(figure["layout"].get("height", 450))
    alt = (figure["layout"].get("meta") or {}).get("alt")
    label = f' aria-label="{html.escape(alt)}"' if alt else ""
    # "<" would let a text end the script element.
    payload = json.dumps(figure).replace("<", "\\u003c")
    return (
        f'<div class="plotly-figure" role="figure"{label} style="min-height:{height}px">'
        f'<script type="application/json">{payload}</script></div>'
    )


class PlotlyRenderer:
    """myst-nb plugin for the figure's mime type."""

    mime_priority_overrides = [("html", MIME_TYPE, 1)]

    @staticmethod
    def handle_mime(renderer, data, inline):
        if data.mime_type != MIME_TYPE or inline:
            return None
        return [nodes.raw("", figure_html(data.content), format="html")]


def copy_scripts(app, exception):
    """Put the scripts of installed packages beside the other static files."""
    if exception is None and app.builder.format == "html":
        [own] = find_spec("crosscoder_utils").submodule_search_locations  # found, not imported, which would take seconds
        for script in (Path(plotly.__file__).parent / "package_data" / "plotly.min.js", Path(own) / "display" / "downloads.js"):
            shutil.copy(script, Path(app.outdir) / "_static" / script.name)


def load_scripts(app, pagename, templatename, context, doctree):
    """Plotly is large: only pages with a figure load it."""
    if 'class="plotly-figure"' in context.get("body", ""):
        for script in SCRIPTS:
            app.add_js_file(script)


def name_roles_of_today(app, pagename, templatename, context, doctree):
    """Bibliographies: docutils gives their entries a role that ARIA has dropped since."""
    context["body"] = context.get("body", "").replace(' role="doc-biblioentry"', ' role="listitem"')


def leave_out_colab(app, pagename, templatename, context, doctree):
    """Of pages in markdown: Colab opens notebooks only."""
    if context.get("page_source_suffix") == ".md":
        buttons = context.get("header_buttons", [])
        context["header_buttons"] = [button for button in buttons if button.get("label") != "launch-buttons"]


def leave_out_thebe(app, config):
    """Keep sphinx-thebe's scripts, which nothing here uses, out of the pages: they come twice and then fail to load."""
    for event in ("env-before-read-docs", "doctree-resolved"):
        for listener in list(app.events.listeners[event]):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)


def setup(app):
    # The list is myst-nb's own, filled from entry points once; a local extension is no installed package to have one.
    if PlotlyRenderer not in load_mime_renders():
        load_mime_renders().append(PlotlyRenderer)
    app.connect("config-inited", leave_out_thebe)
    app.connect("html-page-context", load_scripts)
    app.connect("html-page-context", name_roles_of_today)
    app.connect("html-page-context", leave_out_colab, priority=502)  # the theme adds its buttons at 501
    app.connect("build-finished", copy_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
