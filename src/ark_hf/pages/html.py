"""What the HTML reports share: one self-contained page, without a script or anything from elsewhere."""

import html
from collections.abc import Iterable, Mapping, Sequence

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2126; --note: #59626c; --soft: #8b949e;
  --faint: #d5dae0; --panel: #f5f6f8; --blue: #2f6fb7; --orange: #c2691a; --green: #2a8c5d; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e4e7eb; --note: #a3adb7; --soft: #7c858f;
  --faint: #3a424b; --panel: #1d2228; --blue: #5a9be0; --orange: #e0914a; --green: #4fb487; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 .5rem; padding-top: 1rem; border-top: 2px solid var(--faint); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .4rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; }
ul { margin: .4rem 0; padding-left: 1.2rem; }
a { color: var(--blue); }
.note { color: var(--note); font-size: .875rem; }
.look { background: var(--panel); border-left: 4px solid var(--orange); padding: .5rem .9rem; border-radius: .25rem; }
.wide { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem .25rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--faint); }
th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper);
  min-width: 5.5rem; max-width: min(20rem, 40vw); white-space: normal; overflow-wrap: break-word; }
.side { display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: flex-start; }
.side > * { min-width: 0; max-width: 100%; }
.side > * + * { flex: 1 1 22rem; }
@media (max-width: 50rem) { .side > * + * { order: -1; } }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem 2rem;
  align-items: start; }
figure { margin: .5rem 0; min-width: 0; }
figure > svg { width: 100%; max-width: 30rem; height: auto; display: block; font-family: inherit; }
figure.map { overflow-x: auto; }
figure.map > svg { width: auto; max-width: none; }
figcaption { font-size: .875rem; font-weight: 600; margin-bottom: .25rem; overflow-wrap: anywhere; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: .75rem 2rem; }
.sheet div { display: grid; grid-template-columns: repeat(4, 1fr); gap: .3rem; }
.sheet img { width: 100%; height: auto; background: #000; display: block; }
.sheet small { color: var(--note); font-size: .7rem; line-height: 1.25; display: block; }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """The whole page; `parts` are HTML, `title` is text."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def look_at(found: Sequence[str]) -> str:
    """A box of sentences that a reader should not miss; nothing without any."""
    if not found:
        return ""
    items = "".join(f"<li>{escape(each)}</li>" for each in found)
    return f'<div class="look"><strong>Look at</strong><ul>{items}</ul></div>'


def side_by_side(*parts: str) -> str:
    """Beside one another where the screen is wide enough."""
    return f'<div class="side">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def html_figures(drawn: Mapping[str, str]) -> str:
    """SVG figures by caption."""
    all_of_them = "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>" for title, svg in drawn.items()
    )
    return f'<div class="figures">{all_of_them}</div>' if all_of_them else ""


def html_table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are text, the first of a row its name."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def escape(text: str) -> str:
    return html.escape(str(text))
