"""The documentation site: ``sphinx-build -W --keep-going docs docs/_build``.

Sphinx, with MyST for pages in Markdown, autodoc for the API and the Furo theme: all of them kept
up, and a build fetches nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # document this tree, always

from sphinx.util.nodes import make_refnode

from ccl_hub import __version__

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "ccl-hub"
author = "the ccl-hub authors"
copyright = f"{author}, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = True  # a reference that leads nowhere is a warning, and a warning is an error
# Names of others: to look them up would take the network.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|np|numpy|npt|PIL|collections|pathlib|typing)\..*"),
    (r"py:.*", r"(Path|Tensor|Callable|Iterator|Mapping|Sequence|Any|Literal|TracebackType|T)"),
    (r"py:class", r"float64|int64|dict\[str|[A-Z]\w* .*|[a-z].* .*|Length"),  # words, not types
]

myst_heading_anchors = 3

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Source", "returns_style")]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"ccl-hub {version}"
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False


def _resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element
) -> Element | None:
    """Find what a docstring calls by a short name, such as ``InputError``, in whatever module.

    What exists but is not on a page stays plain text; only what does not exist is a warning.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    domain: Any = env.get_domain("py")
    found = {
        (entry.docname, entry.node_id)
        for name, entry in domain.objects.items()
        if name.endswith(f".{target}")
    }
    if len(found) == 1:
        ((docname, anchor),) = found
        return make_refnode(app.builder, node["refdoc"], docname, anchor, contnode, target)
    return contnode if _exists(target) else None


def _exists(target: str) -> bool:
    """Return whether some module of the package has the (dotted) name."""
    if target in sys.modules:
        return True
    path = target.removeprefix("ccl_hub.").split(".")
    for start in [module for name, module in sys.modules.items() if name.startswith("ccl_hub")]:
        value: Any = start
        for name in path:
            fields = getattr(value, "__dataclass_fields__", {})
            value = getattr(value, name, fields.get(name))
        if value is not None:
            return True
    return False


def setup(app: Sphinx) -> None:
    """Connect the above; Sphinx calls this."""
    app.connect("missing-reference", _resolve)
