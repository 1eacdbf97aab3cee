"""Sphinx: pages as they are in the repository, and docstrings. make site."""

import pathlib

from sphinx import addnodes

project = "big_contrastive"
author = "The big_contrastive authors"
html_title = project
root_doc = "docs/site/index"
include_patterns = [
  "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LOG.md", "docs/**",
  "benchmarks/RESULTS.md",
]  # fmt: skip
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# Links go by headings as GitHub names them; a broken one is an error (-W).
myst_heading_anchors = 6
# Docstrings are prose, with names in single backticks: not all of them is rST.
default_role = "code"
suppress_warnings = ["docutils"]
autodoc_typehints = "description"


def setup(app):
  """Links to folders of the repository stay as text: a site has none."""
  app.connect("doctree-read", _without_folders)


def _without_folders(app, doctree):
  page = pathlib.Path(app.env.doc2path(app.env.docname))
  for link in list(doctree.findall(addnodes.pending_xref)):
    if (page.parent / link["reftarget"]).is_dir():
      link.replace_self(link.children)
