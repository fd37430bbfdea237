"""How Sphinx builds the documentation; `make docs` does it, with warnings as errors."""

import re
from importlib.metadata import version as installed_version

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

project = "retryexec"
author = "The retryexec authors"
copyright = f"2026, {author}"  # noqa: A001 (Sphinx reads this name)
version = release = installed_version("retryexec")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples", "benchmarks/answers.md", "benchmarks/results.md"]
html_theme = "furo"
html_title = f"retryexec {release}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

napoleon_use_ivar = True  # attributes that autodoc lists are not listed twice
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

# Our own names must resolve. Those of others would need their inventories, and so a
# network; and type variables, and the types of **changes, are documented nowhere.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!retryexec\b).*"),
    (r"py:.*", r"retryexec\..*\b_?[A-Z](_co|_contra)?"),
    (r"py:.*", r"retryexec\..*Changes"),
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


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", resolve_public_name)
