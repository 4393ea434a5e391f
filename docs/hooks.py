"""mkdocs hook: links to files outside docs/, which the site lacks, become plain text."""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.resolve()


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Return the page without links that leave docs/. A forge shows those files; a site cannot."""
    folder = Path(page.file.abs_src_path).parent

    def keep(link: re.Match[str]) -> str:
        inside = (folder / link[2]).resolve().is_relative_to(DOCS)
        return link[0] if inside else link[1]

    return re.sub(r"\[([^\]]+)\]\((\.\./[^)#]+)[^)]*\)", keep, markdown)
