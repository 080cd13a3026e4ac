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
from sphinx.util.docutils import SphinxRole

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


def link(text: str, domain: str, role: str, target: str, page: str) -> addnodes.pending_xref:
    """Return code that is a link."""
    code = nodes.literal(text, text, classes=["xref"])
    options = {"refdomain": domain, "reftype": role, "reftarget": target, "refdoc": page, "refexplicit": True, "refwarn": True}
    return addnodes.pending_xref("", code, **options)


def link_to_name(text: str, name: str, page: str) -> addnodes.pending_xref | None:
    """Return a link to a public name, by its short or full path; None where it is none."""
    name = PATHS.get(name, name)
    if name not in NAMES:
        return None
    if name == NAMES[name]:  # a room
        return link(text, "std", "ref", f"room-{name}", page)
    return link(text, "py", ROLES[kind_of(name)], f"dnnsplit.{name}", page)


class Named(SphinxRole):
    """The default role: a link where what it names is public, else code."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the node."""
        name = self.text.removesuffix("()").removeprefix("dnnsplit.")
        return [link_to_name(self.text, name, self.env.docname) or nodes.literal(self.rawtext, self.text)], []


class CodeLinks(SphinxTransform):
    """Makes ``ds.name(...)`` and ``dnnsplit command ...`` in prose links; a name that does not exist is a mistake of the page."""

    default_priority = 10

    def apply(self) -> None:
        """Change the literals of this document."""
        for node in list(self.document.findall(nodes.literal)):
            text, page, found = node.astext(), self.env.docname, None
            if isinstance(node.parent, nodes.reference | nodes.title | addnodes.pending_xref):
                continue
            if code := CODE.fullmatch(text):
                if not _exists(code[1]):
                    log.warning("there is no dnnsplit.%s", code[1], location=node)
                parts = code[1].split(".")
                longest = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
                found = next(filter(None, (link_to_name(text, name, page) for name in longest)), None)
            elif text.startswith("dnnsplit "):
                words = text.split()
                command = next((c for n in (3, 2) if (c := " ".join(words[:n])) in COMMANDS), None)
                found = link(text, "std", "ref", label(command), page) if command else None
            if found is not None:
                node.replace_self(found)


def _exists(name: str) -> bool:
    owner, _, field = f"dnnsplit.{name}".rpartition(".")
    try:
        return field in getattr(resolve_name(owner), "__annotations__", {}) or bool(resolve_name(f"dnnsplit.{name}"))
    except (ImportError, AttributeError):
        return False


def plain(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are read as texts, too: ``(n, *shape)`` and ``|error|`` are no markup in them."""
    for number, line in enumerate(lines):
        lines[number] = re.sub(r"\|(\S[^|]*\S|\S)\|", r"\\|\1\\|", re.sub(r"(?<=, )\*(?=\w)", r"\\*", line))


def setup(app: Sphinx) -> None:
    """Register what is ours."""
    app.add_role("named", Named())
    app.add_transform(CodeLinks)
    app.connect("autodoc-process-docstring", plain, priority=400)
