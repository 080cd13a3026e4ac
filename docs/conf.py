"""Configuration of the site that `docs/website.py` builds: Sphinx, MyST-NB, and what makes code in prose a link."""

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from pkgutil import resolve_name

from docutils import nodes
from numpydoc import xref
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parent))

from reference import commands, kind_of, label, public_names

NAMES = public_names()
COMMANDS = {name for name, _ in commands()}
ROLES = {"function": "func", "class": "class", "exception": "exc", "module": "mod", "data": "data"}
CODE = re.compile(r"(?:ds|dnnsplit)\.([A-Za-z_][\w.]*\w)(?:\(.*\))?", re.DOTALL)
PATHS = {f"{where}.{name.rpartition('.')[2]}": name for name, where in NAMES.items()}

project, author, copyright = "dnnsplit", "The dnnsplit authors", "the dnnsplit authors"
version = release = version_of("dnnsplit")
language = "en"
extensions = ["myst_nb", "sphinx_design", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc"]
exclude_patterns = ["_*.md", "**/_*.md"]

# Notebooks are executed by our own runner, which keeps what nothing has changed for; nothing is executed here.
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # they would come from another site, and have no kernel here
nb_number_source_lines = False
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 4

# Docstrings: numpydoc's form; types that are ours become links, what is in single backticks too where it is public.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
xref.DEFAULT_LINKS.clear()  # types of Python and its libraries are described elsewhere, where no build can look
numpydoc_xref_aliases = {name: f"dnnsplit.{name}" for name in NAMES if kind_of(name) in ("class", "exception")}
default_role = "named"
nitpicky = True
suppress_warnings = [
    "ref.citation",  # a docstring may list what it rests on without a number in its text
    "myst.header",  # pages of the repository may skip a level
]

html_theme = "furo"
html_title = f"dnnsplit {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#005a8e", "color-brand-content": "#005a8e"},
    "dark_css_variables": {"color-brand-primary": "#6cb8ea", "color-brand-content": "#6cb8ea"},
}
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"

log = logging.getLogger(__name__)


def reference(text: str) -> addnodes.pending_xref | None:
    """Return a link to what a piece of code names: a public name, by its short or full path, or a command; else None."""
    bare = text.removesuffix("()")
    name = bare.removeprefix("dnnsplit.").removeprefix("ds.")
    name = PATHS.get(name, name)
    if name not in NAMES or (name in ("examples", "plots") and "." not in bare):
        return None
    room = kind_of(name) == "module" and name in ("examples", "plots")
    target = {"refdomain": "std", "reftype": "ref", "reftarget": f"room-{name}", "refexplicit": True} if room else {
        "refdomain": "py", "reftype": ROLES[kind_of(name)], "reftarget": f"dnnsplit.{name}", "refexplicit": True,
    }  # fmt: skip
    link = addnodes.pending_xref("", nodes.literal(text, text, classes=["xref"]), refwarn=True, **target)
    return link


def named(role, rawtext, text, lineno, inliner, options=None, content=()):
    """The default role, `name`: a link where it is a public name, else code."""
    link = reference(text)
    if link is not None:
        link["refdoc"] = inliner.document.settings.env.docname
    return [nodes.literal(rawtext, text) if link is None else link], []


class CodeLinks(SphinxTransform):
    """Makes ``ds.name(...)`` and ``dnnsplit command ...`` in prose links; a name of ds that is not public is a mistake of the page."""

    default_priority = 10

    def apply(self) -> None:
        """Change the literals of this document."""
        for node in list(self.document.findall(nodes.literal)):
            if isinstance(node.parent, nodes.reference | addnodes.pending_xref) or any(isinstance(p, nodes.title) for p in _above(node)):
                continue
            text = node.astext()
            link = None
            if found := CODE.fullmatch(text):
                parts = found[1].split(".")
                if not _exists(found[1]):
                    log.warning("there is no dnnsplit.%s", found[1], location=node)
                link = next(filter(None, (reference(f"ds.{'.'.join(parts[:n])}") for n in range(len(parts), 0, -1))), None)
            elif text.startswith("dnnsplit "):
                words = text.split()
                command = next((c for n in (3, 2) if (c := " ".join(words[:n])) in COMMANDS), None)
                if command:
                    link = addnodes.pending_xref(
                        "", refdomain="std", reftype="ref", reftarget=label(command), refexplicit=True, refwarn=True
                    )
            if link is not None:
                link["refdoc"] = self.env.docname
                link.children = []
                link += nodes.literal(text, text, classes=["xref"])
                node.replace_self(link)


def _exists(name: str) -> bool:
    try:
        resolve_name(f"dnnsplit.{name}")
    except (ImportError, AttributeError):
        owner, _, field = name.rpartition(".")  # a field of a dataclass is no attribute of it
        return bool(owner) and field in getattr(resolve_name(f"dnnsplit.{owner}"), "__annotations__", {})
    return True


def plain(app, what, name, obj, options, lines) -> None:
    """Docstrings are read as texts, too: ``(n, *shape)`` and ``|error|`` are no markup in them."""
    for number, line in enumerate(lines):
        lines[number] = re.sub(r"\|(\S[^|]*\S|\S)\|", r"\\|\1\\|", re.sub(r"(?<=, )\*(?=\w)", r"\\*", line))


def _above(node: nodes.Node) -> list[nodes.Node]:
    found = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found


def setup(app: Sphinx) -> None:
    """Register what is ours."""
    app.add_role("named", named)
    app.add_transform(CodeLinks)
    app.connect("autodoc-process-docstring", plain, priority=400)
