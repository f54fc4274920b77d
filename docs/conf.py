"""How `make docs` builds this folder as a site: strictly, and so that its pages load nothing from the network."""

import re

from sphinx.application import Sphinx

import bdiff

project, release = "bdiff", bdiff.__version__
extensions = ["myst_parser"]
myst_heading_anchors = 3  # levels of headings that links can name, as on code hosts
highlight_language = "text"
html_theme = "furo"
html_title = f"bdiff {release}"
html_copy_source = html_show_copyright = html_use_index = False
html_static_path = ["_static"]
html_js_files = ["site.js"]


def setup(app: Sphinx) -> None:
    """Let readers see what a command needs, which its page says in a comment before it, for the tests."""
    app.connect("source-read", lambda app, name, source: source.__setitem__(0, shown(source[0])))


def shown(page: str) -> str:
    """Return a page with its `<!-- needs: ... -->` as text."""
    return re.sub(r"^<!-- needs: (.+) -->$", r"*Needs \1:*", page, flags=re.MULTILINE)
