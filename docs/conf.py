"""How Sphinx builds the documentation; `make docs` does it, with warnings as errors."""

import re
from importlib.metadata import version as installed_version

from docutils import nodes
from sphinx.addnodes import desc_signature, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

project = "retryexec"
author = "The retryexec authors"
copyright = f"2026, {author}"  # noqa: A001 (Sphinx reads this name)
version = release = installed_version("retryexec")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "examples", "benchmarks/answers.md", "benchmarks/results.md"]
html_theme = "furo"
html_title = f"retryexec {release}"
html_static_path = ["_static"]
html_css_files = ["retryexec.css"]
html_favicon = "_static/logo.svg"
html_logo = "_static/logo.svg"
templates_path = ["_templates"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/tagline.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b6b50",
        "color-brand-content": "#0b6b50",
        "color-brand-visited": "#0b6b50",
    },
    "dark_css_variables": {
        "color-brand-primary": "#4fd1a5",
        "color-brand-content": "#4fd1a5",
        "color-brand-visited": "#4fd1a5",
    },
}
copybutton_prompt_text = "$ "  # of a console block, what is typed and not what is answered

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

napoleon_use_ivar = True  # attributes that autodoc lists are not listed twice
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True

# Our own names must resolve. Those of others would need their inventories, and so a
# network; and type variables, and the types of **changes, are documented nowhere.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!retryexec\b).*"),
    (r"py:.*", r"retryexec\..*\b_?[A-Z](_co|_contra)?"),
    (r"py:.*", r"retryexec\..*Changes"),
    (r"py:.*", r"retryexec\..*JobJournal"),  # what Journal and MemoryJournal have in common
]

PRIVATE_MODULE = re.compile(r"^retryexec\.(?:\w+\.)*?_\w+\.")


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """Lead a name from where it is defined to where it is documented.

    Annotations say `retryexec._core.job.RetryFuture`; users import `retryexec.RetryFuture`.
    """
    target = str(node.get("reftarget", ""))
    public = PRIVATE_MODULE.sub("retryexec.", target)
    if node.get("refdomain") != "py" or public == target:
        return None
    return env.domains["py"].resolve_xref(
        env, node["refdoc"], app.builder, "obj", public, node, content
    )


def name_public_modules(_app: Sphinx, doctree: nodes.document, _page: str) -> None:
    """Show no private module to a reader: not in a signature, nor where one points at a name."""
    for node in doctree.findall(nodes.reference):
        if "reftitle" in node:
            node["reftitle"] = PRIVATE_MODULE.sub("retryexec.", node["reftitle"])
    for signature in doctree.findall(desc_signature):
        for text in [*signature.findall(nodes.Text)]:
            # Sphinx leaves a signature with a ParamSpec unread, with a ~ before each long name.
            if "~" in text:
                text.parent.replace(text, nodes.Text(re.sub(r"~(?:\w+\.)*", "", text)))


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", resolve_public_name)
    app.connect("doctree-resolved", name_public_modules)
