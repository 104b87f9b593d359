"""Hook of mkdocs: links from the manual to files of the repository lead to copies of these files in
the built site.

A page writes `../semantic_trio/PATH.py`, which is right where the pages are read beside the code.
In the site the link leads to a text file.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PATTERNS = ("semantic_trio/**/*.py", "examples/*.py", "CONTRIBUTING.md")
LINK = re.compile(r"\]\(((?:\.\./)+)((?:semantic_trio|examples)/[\w/]+\.py|CONTRIBUTING\.md)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages may link to, as text that browsers show."""
    for path in sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern)):
        files.append(
            File.generated(
                config, _place(path.relative_to(ROOT).as_posix()), abs_src_path=str(path)
            )
        )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to these files at their copies."""
    return LINK.sub(lambda link: f"]({link[1][3:]}{_place(link[2])})", markdown)


def _place(path: str) -> str:
    return f"source/{path}.txt"
