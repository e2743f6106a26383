"""The site: lessons, audits and pages of this folder as they are stored; nothing is executed.

sphinx-build -W -c notebooks/site notebooks OUT
"""

import json
import re

from galflow_lite import __version__
from galflow_lite.notebooks import mathml

project, author, release = "galflow_lite", "The galflow_lite authors", __version__
copyright = "the galflow_lite authors; code MIT, text and figures CC BY 4.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["captions", "site/conf.py", "site/static", "**/.ipynb_checkpoints"]
html_theme, html_title = "sphinx_book_theme", "galflow_lite"
html_theme_options = {"show_toc_level": 2, "use_download_button": True}
html_math_renderer = "mathml"
html_static_path, html_css_files = ["static"], ["style.css"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_render_markdown_format = "myst"
nb_execution_mode = "off"
nb_mime_priority_overrides = [("html", "image/gif", 0)]
autodoc_typehints, autodoc_member_order = "description", "bysource"
suppress_warnings = ["mystnb.unknown_mime_type"]


def prepare(app, name, source):
    """Alt texts go where myst-nb looks for them; the code of figures is folded."""
    if not source[0].lstrip().startswith("{"):
        return
    book = json.loads(source[0])
    for cell in book["cells"]:
        for output in cell.get("outputs", []):
            for about in output.get("metadata", {}).values():
                if isinstance(about, dict) and "alt" in about:
                    cell["metadata"]["mystnb"] = {"image": {"alt": about["alt"]}}
        if cell["metadata"].get("jupyter", {}).get("source_hidden"):
            cell["metadata"].setdefault("tags", []).append("hide-input")
    source[0] = json.dumps(book)


def escape(app, what, name, thing, options, lines):
    """Shapes and absolute values stand in docstrings as one writes them: no markup is meant."""
    in_formula = False
    for i, line in enumerate(lines):
        in_formula = line.startswith((" ", ".. math::")) if in_formula else ".. math::" in line
        if not in_formula:
            parts = re.split(r"(`[^`]*`|(?<![\w*])\*\w[^*]*\w\*(?![\w*]))", line)
            parts[::2] = [re.sub(r"(?<!\\)([*|])(?! :)", r"\\\1", p) for p in parts[::2]]
            lines[i] = "".join(parts)


# The theme names buttons by another text than they show; what scrolls has to take the keyboard.
MENDED = """document.addEventListener("DOMContentLoaded", () => {
  for (const shown of document.querySelectorAll("button.search-button-field, summary"))
    shown.removeAttribute("aria-label");
  for (const wide of document.querySelectorAll("p:has(> math[display='block'])"))
    wide.tabIndex = 0;
});"""


def setup(app):
    from docutils.nodes import SkipNode

    def of(formula):
        def visit(writer, node):
            writer.body.append(formula(node.astext()))
            raise SkipNode

        return visit, None

    app.add_js_file(None, body=MENDED)
    app.connect("source-read", prepare)
    app.connect("autodoc-process-docstring", escape, priority=900)
    blocks = of(lambda text: f"<p>{mathml(text, block=True)}</p>")
    app.add_html_math_renderer("mathml", of(mathml), blocks)
