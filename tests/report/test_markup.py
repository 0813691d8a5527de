"""HTML of text that anyone may have written, and documents that fetch nothing."""

import base64
import hashlib
import math
import re

import pytest

from resnet18.report.markup import cut, isolated, number, standalone, table, text


def test_a_text_is_neither_a_tag_nor_the_end_of_an_attribute() -> None:
    assert text("<b>\"'&$\x00\ud800\u202e") == "&lt;b&gt;&quot;&#x27;&amp;$\ufffd\ufffd\u202e"
    assert isolated("שלום<") == "<bdi>שלום&lt;</bdi>"
    assert "<td><bdi>a</bdi></td>" in table(("name",), [(isolated("a"),)])


@pytest.mark.parametrize(
    ("value", "metric", "shown"),
    [
        (0.99443, "val/top1", "99.44\u00a0%"),
        (3816.33, "topic", "3,816"),
        (0.00163934, "topic", "0.001639"),
        (math.nan, "val/top1", "nan"),
        (-math.inf, "topic", "-inf"),
        (None, "topic", "–"),
        ("?", "topic", "–"),
    ],
)
def test_a_number_is_read_at_a_glance(value: object, metric: str, shown: str) -> None:
    assert number(value, metric) == shown


def test_a_long_name_is_cut_by_the_columns_that_it_takes() -> None:
    assert cut("mountain bike", 20) == "mountain bike"
    assert cut("mountain bike", 8) == "mountai…"
    assert cut("自転車自転車", 8) == "自転車…"


def test_a_document_lets_its_own_script_run_and_no_other() -> None:
    page = standalone("<p>body</p>", "a < b", "let one = 1;")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    digest = base64.b64encode(hashlib.sha256(b"let one = 1;").digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert "<title>a &lt; b</title>" in page
    assert "script" not in standalone("<p>drawn</p>")
    assert "prefers-color-scheme" in standalone("<p>drawn</p>")
