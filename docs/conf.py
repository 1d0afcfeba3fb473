"""How Sphinx builds the documentation: guide pages in Markdown, API pages from the docstrings of lmx."""

import re

from flax import nnx
from sphinx.util import inspect

import lmx

project = "lmx"
release = lmx.__version__
copyright = "the lmx authors"
html_title = f"lmx {release}"
html_theme = "furo"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False

extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["api/modules.rst"]
myst_heading_anchors = 3

# One page for each module, written at each build.
apidoc_modules = [
    {
        "path": "../lmx",
        "destination": "api",
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members"},
    }
]
autodoc_member_order = "bysource"
autodoc_default_options = {"special-members": "__call__"}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
add_module_names = False
python_maximum_signature_line_length = 100
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False  # shapes have stars
# Docstrings are written as Markdown is: `code` in single backticks.
default_role = "code"


def as_written(app, what, name, obj, options, lines: list[str]) -> None:
    """Escapes what reStructuredText would take for markup in our prose: stars, bars and trailing underscores."""
    if lines[:1] == ["Call self as a function."]:  # Python's own words, where a __call__ has no docstring
        lines.clear()
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...", "* ")):  # examples and lists
            parts = re.split(r"(`[^`]*`)", line)
            parts[::2] = [re.sub(r"(\*|\||_(?!\w))", r"\\\1", part) for part in parts[::2]]
            # A word may go on right after code: `word`s.
            parts[2::2] = [re.sub(r"^(?=\w)", r"\\ ", part) for part in parts[2::2]]
            lines[number] = "".join(parts)


class Name(str):
    """A default value shown by its name."""

    __repr__ = str.__str__


def readable(app, what, name, obj, options, signature, returns) -> tuple[str | None, str | None]:
    """Shows the arguments of a module's constructor, hidden by Flax's metaclass, and arrays by their name."""
    if isinstance(obj, type) and issubclass(obj, nnx.Module):
        arguments = inspect.signature(obj.__init__, bound_method=True)
        shown = [
            parameter.replace(default=Name(parameter.default.__name__))
            if parameter.default is not parameter.empty and hasattr(parameter.default, "__name__")
            else parameter
            for parameter in arguments.parameters.values()
        ]
        arguments = arguments.replace(parameters=shown)
        signature = inspect.stringify_signature(arguments, show_return_annotation=False, unqualified_typehints=True)
    prefix = re.compile(r"(jaxlib\._jax|jax|numpy)\.(?=Array|ndarray)")
    return signature and prefix.sub("", signature), returns and prefix.sub("", returns)


def skip_tuple_fields(app, what, name, obj, skip, options) -> bool | None:
    """Leaves out the fields of named tuples, which their class documents."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app) -> None:
    app.connect("autodoc-process-docstring", as_written, priority=100)
    app.connect("autodoc-process-signature", readable)
    app.connect("autodoc-skip-member", skip_tuple_fields)
