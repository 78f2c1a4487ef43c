"""Sphinx configuration."""

import warnings

from stackedae import __version__

project = "stackedae"
author = "The stackedae developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "myst_parser",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "_build",
    "preconditioner.md",
    "missing.md",
    "few-labels.md",
    "denoising.md",
    "adam.md",
    "sharing.md",
    "peers-*.md",
    "engine-*.md",
    "scaling-*.md",
]
templates_path = ["_templates"]
nitpicky = False

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_validation_checks = {"GL01", "GL02", "GL03", "PR01", "PR02", "PR03", "RT01", "SS01"}
# One line says what a method of a solver or a short property does.
numpydoc_validation_exclude = {
    r"\.__init__$",
    r"solvers\.\w+\.\w+$",
    r"solvers\.Status",
    r"costs\.\w+\.(en|de)code$",
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"(?<!mnist)\.py$",
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "abort_on_example_error": True,
}
# Examples stop after a fixed number of iterations, and say so in their text.
warnings.filterwarnings("ignore", message="Matplotlib is currently using agg")

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = f"stackedae {version}"
html_show_sourcelink = False
_WITHOUT_SECTIONS = (
    "index",
    "install",
    "quickstart",
    "images",
    "method",
    "selecting",
    "supervised",
    "outliers",
    "reliability",
    "cluster",
    "performance",
    "scaling",
    "going-elsewhere",
)
html_sidebars = {page: [] for page in (*_WITHOUT_SECTIONS, "architecture")}
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
}
