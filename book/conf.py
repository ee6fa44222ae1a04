"""Settings of Sphinx for the book; `make book` builds it with warnings as errors and without the network."""

import logging
import os
import re
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

# Compiled functions have no Python signature to show; the notebooks' own processes compile as ever.
os.environ["NUMBA_DISABLE_JIT"] = "1"
import deep.highway.engine  # noqa: F401
import mereq_min.soft_numba  # noqa: F401

del os.environ["NUMBA_DISABLE_JIT"]

# What chapters computed; `make book` removes it when code changes.
CACHE = Path(__file__).parent / "_build" / ".jupyter_cache"

project = "mereq-min"
author = "The mereq-min authors"
copyright = "The mereq-min authors, MIT licence"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
suppress_warnings = ["config.cache"]  # functions in the configuration cannot be pickled, and need not be
nitpicky = True
# Types of other packages: their own references are out of reach without the network.
nitpick_ignore_regex = [(r"py:.*", r"(?!(mereq_min|gridworlds|deep)\.).*")]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(CACHE)
nb_execution_timeout = 180
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables that cells set out may hold formulas and references
nb_code_prompt_show = "Show code"
nb_code_prompt_hide = "Hide code"

default_role = "literal"
highlight_language = "none"
autodoc_default_options = {"members": True, "member-order": "bysource", "ignore-module-all": True}
autodoc_typehints = "none"
autosummary_generate = True
autodoc_mock_imports = ["stable_baselines3"]  # only the scripts that train priors need it
napoleon_attr_annotations = False
napoleon_use_ivar = True

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

numfig = True
math_numfig = True
numfig_secnum_depth = 1
math_eqref_format = "({number})"
# The one file that `make book` fetches: scalable, complete, and asked for nothing more at run time.
mathjax_path = "mathjax/tex-svg.js"

html_context = {"default_mode": "auto"}
html_theme = "sphinx_book_theme"
html_title = "Alignment from intervention"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = [("mereq.js", {"defer": "defer"}), ("widgets.js", {"defer": "defer"})]
html_favicon = "_static/favicon.svg"
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "collapse_navbar": True,  # a hundred modules in each sidebar would take minutes
    "show_toc_level": 2,
    "navbar_persistent": [],
    "use_fullscreen_button": False,
}


def as_rst(app, what, name, obj, options, lines):
    """Read docstrings as they are meant.

    |x| is a norm, `X`s a plural, an indented block shows as it stands, and eq-... is an equation of the book.
    """
    # Napoleon takes what stands before a colon in an attribute's first line for its type.
    out = ["\\ "] if what in ("attribute", "data", "property") else []
    indent, in_block = 0, False
    for line in lines:
        here = len(line) - len(line.lstrip())
        if line.strip():
            if in_block and here <= indent:
                in_block = False
            elif not in_block and here > indent and out and not out[-1].strip():
                in_block = True
                out += [" " * indent + "::", ""]
            if not in_block:
                indent = here
        if not in_block:
            line = re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", line).replace("|", r"\|")
            line = re.sub(r"\beq-[\w-]+", r":eq:`\g<0>`", line)
        out.append(line)
    lines[:] = out


def execute_chapters(app):
    """Execute all chapters side by side if there is no cache; Sphinx would take one after the other."""
    if CACHE.exists():
        return
    cache = get_cache(CACHE)
    for page in sorted(app.srcdir.glob("*.md")):
        if "kernelspec:" in page.read_text():
            cache.add_nb_to_project(page, read_data={"type": "plugin", "name": "myst_nb_md"})
    # What fails is executed again by myst-nb, which then reports it.
    logger = logging.getLogger("chapters")
    logger.setLevel(logging.ERROR)
    load_executor("local-parallel", cache, logger).run_and_cache(timeout=app.config.nb_execution_timeout)


def offer_notebook(app, pagename, templatename, context, doctree):
    """Put a chapter as it was executed beside its source, for the theme's download button."""
    offered = app.outdir / "_sources" / f"{pagename}.ipynb"
    executed = app.outdir.parent / "jupyter_execute" / offered.name
    if executed.exists():
        # What the cache had is on the page, but not in the file that myst-nb leaves.
        notebook = nbformat.read(executed, as_version=4)
        _, notebook = get_cache(CACHE).merge_match_into_notebook(notebook)
        offered.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, offered)
        context["ipynb_source"] = offered.name


def setup(app):
    """Execute chapters first, let docstrings through `as_rst` before anything else, and offer notebooks."""
    app.connect("builder-inited", execute_chapters)
    app.connect("autodoc-process-docstring", as_rst, priority=1)
    app.connect("html-page-context", offer_notebook)
