"""mkdocs hook: links to files outside docs/, which the site lacks, become plain text."""

import re
from typing import Any


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Return the page without links that leave docs/. A forge shows those files; a site cannot."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", markdown)
