"""A report's sections as Markdown, and as one page that needs nothing else."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image

from segdcn.compare.tables import Table

PICTURES = "pictures"  # folder of the Markdown report's
STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem;max-width:72rem;color:#1a1a1a;background:#fff;font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:0 0 .5rem;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:2.2rem 0 .4rem}
p{margin:.3rem 0 .7rem;max-width:62rem}code{font-size:.88em;background:#f2f2f0;padding:.1em .3em;overflow-wrap:anywhere}
.table{overflow-x:auto;margin:.6rem 0 1rem}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .8rem;text-align:right;white-space:nowrap;border-bottom:1px solid #ddd}
thead th{border-bottom:2px solid #8a8a86;vertical-align:bottom}.text{text-align:left}
tbody th{font-weight:600}tbody tr:hover{background:#f2f2f0}
figure{margin:.6rem 0 1.4rem}img{display:block;max-width:100%;height:auto}figcaption{color:#4a4a4a}
"""


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it.

    Attributes:
        title: The heading.
        texts: Paragraphs.
        table: Below them.
        pictures: Below that, by caption.
    """

    title: str
    texts: Sequence[str] = ()
    table: Table | None = None
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)


def write(folder: Path, title: str, sections: Sequence[Section]) -> dict[str, Path]:
    """Write report.md with its pictures, and report.html; they replace earlier ones.

    Returns:
        The files, by what they are.
    """
    written = {"report": folder / "report.html", "as text": folder / "report.md"}
    (folder / PICTURES).mkdir(exist_ok=True)
    for old in (folder / PICTURES).glob("*.png"):
        old.unlink()
    for name, picture in _named(sections).items():
        picture.save(folder / PICTURES / name)
    written["as text"].write_text(markdown(title, sections), encoding="utf-8")
    written["report"].write_text(page(title, sections), encoding="utf-8")
    return written


# Markdown


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Write the report as Markdown; its pictures lie beside it, in `pictures`."""
    files = {id(picture): name for name, picture in _named(sections).items()}
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", *section.texts]
        if section.table:
            parts.append(markdown_table(section.table))
        parts += [f"![{caption}]({PICTURES}/{files[id(picture)]})" for caption, picture in section.pictures.items()]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """Write a table as Markdown."""
    numbers = len(table.head) - table.texts
    rows = [table.head, ["---"] * table.texts + ["---:"] * numbers, *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _named(sections: Sequence[Section]) -> dict[str, Image.Image]:
    """Name the pictures by their place."""
    pictures = [picture for section in sections for picture in section.pictures.values()]
    return {f"{number:02d}.png": picture for number, picture in enumerate(pictures)}


# HTML


def page(title: str, sections: Sequence[Section]) -> str:
    """Write the report as one page, pictures included."""
    body = "\n".join(_html(section) for section in sections)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head>
<body><h1>{escape(title)}</h1>
{body}
</body></html>
"""


def _html(section: Section) -> str:
    texts = "".join(f"<p>{_marked(text)}</p>" for text in section.texts)
    table = _html_table(section.table) if section.table else ""
    pictures = "".join(
        f'<figure><img alt="{escape(caption)}" src="{_data_uri(picture)}" width="{picture.width}" '
        f'height="{picture.height}"><figcaption>{escape(caption)}</figcaption></figure>'
        for caption, picture in section.pictures.items()
    )
    return f"<h2>{escape(section.title)}</h2>{texts}{table}{pictures}"


def _marked(text: str) -> str:
    """Turn what stands between backquotes into code."""
    parts = text.split("`")
    return "".join(f"<code>{escape(p)}</code>" if number % 2 else escape(p) for number, p in enumerate(parts))


def _html_table(table: Table) -> str:
    def cell(kind: str, column: int, text: str) -> str:
        return f"<{kind}{' class=text' if column < table.texts else ''}>{escape(text)}</{kind}>"

    head = "".join(cell("th", column, name) for column, name in enumerate(table.head))
    rows = "".join(
        "<tr>" + "".join(cell("td" if column else "th", column, text) for column, text in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _data_uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
