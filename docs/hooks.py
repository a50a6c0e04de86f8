"""What the site needs beside the pages of this folder: the repository's own pages, and links that lead to them.

README, CHANGELOG and the like stay where people look for them in a repository. Links are written as they work there.
On the site, those to files that have a page lead to it, and the text of the others stays without a link.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from griffe import Extension
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "examples/README.md": "examples.md",
}
"""Files of the repository, and what they are called on the site."""
_ORIGINS = {page: file for file, page in PAGES.items()}
_EXAMPLE = re.compile(r"^>>> .*(?:\n(?:>>>|\.\.\.) .*)*", re.MULTILINE)
_LINK = re.compile(r"!?\[(?P<text>[^\[\]]*)\]\((?!\w+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)]*)?\)")


class Examples(Extension):
    """Shows what follows `>>>` or `::` in a docstring as code; Markdown would quote the one, and show the other."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Put fences around the examples of a docstring."""
        if obj.docstring is not None:
            text = obj.docstring.value.replace("\n::\n", "\n")
            obj.docstring.value = _EXAMPLE.sub(r"```pycon\n\g<0>\n```", text)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in this folder, and `llms.txt`."""
    for file, page in PAGES.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text + _code() if page == "examples.md" else text))
    links = (ROOT / "llms.txt").read_text(encoding="utf-8")
    files.append(File.generated(config, "llms.txt", content=relinked(links, "llms.txt").replace(".md)", ".html)")))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links of the repository into links of the site."""
    return relinked(markdown, page.file.src_uri)


def relinked(markdown: str, page: str) -> str:
    """Return a page's text with its links as they work on the site."""
    origin = posixpath.dirname(_ORIGINS.get(page, page if page == "llms.txt" else f"docs/{page}"))
    return _LINK.sub(lambda link: _linked(link, origin, posixpath.dirname(page)), markdown)


def _linked(link: re.Match[str], origin: str, folder: str) -> str:
    target = _on_site(posixpath.normpath(posixpath.join(origin, link["path"])))
    if target is None:
        return link["text"]
    mark = "!" if link[0].startswith("!") else ""
    return f"{mark}[{link['text']}]({posixpath.relpath(target, folder or '.')}{link['anchor'] or ''})"


def _on_site(file: str) -> str | None:
    """Return where a file of the repository is on the site, if it is there."""
    if file.startswith("docs/"):
        return file.removeprefix("docs/")
    if file.startswith("examples/") and file.endswith(".py"):
        return f"examples.md#{Path(file).stem}"
    return PAGES.get(file)


def _code() -> str:
    scripts = sorted((ROOT / "examples").glob("*.py"))
    return "".join(
        f"\n## {script.name} {{ #{script.stem} }}\n\n```python\n{script.read_text(encoding='utf-8')}```\n"
        for script in scripts
    )
