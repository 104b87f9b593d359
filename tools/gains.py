"""Picture of what a user gains: docs/assets/gains.svg, drawn from docs/assets/gains.toml.

python tools/gains.py
"""

import tomllib
from html import escape
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parents[1] / "docs" / "assets"
DATA, PICTURE = ASSETS / "gains.toml", ASSETS / "gains.svg"
# Pixels: the picture, a row of it, a full bar, and a bar's height.
WIDTH, ROW, FULL, BAR = 760, 84, 560, 18

STYLE = """\
text { font: 14px system-ui, sans-serif; fill: #222 } .small { font-size: 12px; fill: #555 }
.ours { fill: #3f51b5 } .theirs { fill: #c5cae9 }
@media (prefers-color-scheme: dark) { text { fill: #eee } .small { fill: #bbb } .ours { fill: #9fa8da } .theirs { fill: #3b4066 } }"""


def svg() -> str:
    """Return the picture: for each gain a bar for this server and one, of full length, for what it
    is compared with.
    """
    gains: list[dict[str, Any]] = tomllib.loads(DATA.read_text())["gain"]
    height = ROW * len(gains)
    summary = "; ".join(
        f"{gain['title']}: {gain['ours'] / gain['theirs']:.2f} of {gain['against']}"
        for gain in gains
    )
    rows = "\n".join(_row(gain, number * ROW) for number, gain in enumerate(gains))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(summary)}">'
    )
    return f"{head}\n<style>\n{STYLE}\n</style>\n{rows}\n</svg>\n"


def _row(gain: dict[str, Any], top: int) -> str:
    part = gain["ours"] / gain["theirs"]
    width = max(2, round(FULL * part))
    return "\n".join(
        [
            f'<text x="0" y="{top + 16}">{escape(gain["title"])}</text>',
            f'<rect class="ours" x="0" y="{top + 24}" width="{width}" height="{BAR}"/>',
            f'<text class="small" x="{width + 8}" y="{top + 38}">semantic-trio: {part:.2f}</text>',
            f'<rect class="theirs" x="0" y="{top + 46}" width="{FULL}" height="{BAR}"/>',
            (
                f'<text class="small" x="{FULL + 8}" y="{top + 60}">{escape(gain["against"])}: '
                "1</text>"
            ),
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(svg())
