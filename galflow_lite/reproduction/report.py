"""One page of claims, key figures and rows, in one file that needs no network."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..files import write_aside
from .rows import row_table
from .verdicts import claims

# The font of the reader's system; wide tables become stacked lines on a telephone.
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:auto;padding:1rem;color:#111}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.5rem}
table{border-collapse:collapse;width:100%}caption{padding:.5rem 0;color:#333}
th,td{padding:.6rem .8rem .6rem 0;border-top:1px solid #ccc;text-align:left;vertical-align:top}
td,th{overflow-wrap:anywhere}p{margin:.4rem 0}figure{margin:1.5rem 0}img{max-width:100%}
figcaption{color:#333}summary{cursor:pointer;margin-top:2rem}details table{font-size:.85rem}
@media(max-width:40rem){thead{display:none}tr,th,td{display:block;width:auto}
th,td{border-top:0;padding:.2rem 0}tr{border-top:1px solid #ccc;padding:.5rem 0}}
"""


def write_report(path: Path, notebook: str, executed: Iterable[Path]) -> None:
    """Write the page of a paper: its claims, the key figures of a run, the numbers it states.

    Args:
        path: the file.
        notebook: two digits.
        executed: notebooks; the figures of their cells with the tag ``key-figure`` are shown.

    Raises:
        OSError: the file cannot be written.
    """
    found = claims(notebook)
    title = html.escape(found.papers[notebook])
    rows = row_table(notebook).drop(columns=["note"]).to_html(index=False, border=0)
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1>{found.to_html()}<h2>Figures of this run</h2>"
        f"{''.join(_figures(executed))}<details><summary>Every number that the paper states, "
        f"beside ours</summary>{rows}</details></html>\n"
    )
    write_aside(path, page)


def _figures(executed: Iterable[Path]) -> Iterator[str]:
    import nbformat

    for path in executed:
        for cell in nbformat.read(path, as_version=4).cells:
            if "key-figure" not in cell.metadata.get("tags", []):
                continue
            outputs = [output for output in cell.outputs if "data" in output]
            for output, after in zip(outputs, [*outputs, {}][1:], strict=True):
                if "image/png" in output.data:
                    alt = html.escape(output.metadata.get("image/png", {}).get("alt", ""))
                    caption = after.get("data", {}).get("text/markdown", "").replace("**", "")
                    yield (
                        '<figure><img src="data:image/png;base64,'
                        f'{"".join(output.data["image/png"].split())}" alt="{alt}">'
                        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
                    )
