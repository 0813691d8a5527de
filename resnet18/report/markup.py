"""HTML in small pieces, every text escaped; and whole documents that fetch nothing."""

import base64
import hashlib
import html
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # neither HTML nor UTF-8 can hold these
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def text(value: Any) -> str:
    """Any text for HTML: in an element or an attribute."""
    return html.escape(CONTROL.sub("\ufffd", str(value)))


def isolated(value: Any) -> str:
    """A name that may be of any script: its direction does not reach the text around it."""
    return f"<bdi>{text(value)}</bdi>"


def number(value: Any, metric: str = "") -> str:
    """A metric's value as it is read on the page: 99.44 %, 0.1526, 3,816; a dash for none."""
    if not isinstance(value, int | float):
        return "–"
    if not math.isfinite(value):
        return str(float(value))
    if is_share(metric):
        return f"{100 * value:.2f}\u00a0%"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def spoken(metric: str) -> str:
    """A metric's name as one says it: test top-1."""
    return re.sub(r"\btop(\d+)$", r"top-\1", metric.replace("/", " "))


def is_share(metric: str) -> bool:
    """Whether a metric is the share of the images that are right: top1, top5."""
    return re.search(r"(^|/)top\d+$", metric) is not None


def cut(label: str, columns: int) -> str:
    """The start of a label; Chinese, Japanese and Korean characters take two columns."""
    fits = max(length for length in range(len(label) + 1) if columns_of(label[:length]) <= columns)
    return label if fits == len(label) else label[: fits - 1] + "…"


def columns_of(label: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in label)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already; of the class ``kind``."""
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    header = f"<thead><tr>{cells}</tr></thead>" if head else ""
    return f'<div class="scroll"><table class="{kind}">{header}<tbody>{body}</tbody></table></div>'


def standalone(content: str, title: str = "", script: str = "") -> str:
    """A whole page with its style. Its policy allows no connection, and of scripts none but this one."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"{POLICY}; script-src 'sha256-{digest}'" if script else POLICY
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title>\n<style>{style}</style></head>\n<body>\n<main>{content}</main>\n"
        f"{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )
