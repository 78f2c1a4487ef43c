"""The page: figures and tables in a template."""

from __future__ import annotations

import html
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from sklearn.utils.validation import check_is_fitted

from stackedae._version import __version__
from stackedae.containers import Container
from stackedae.layout import Array
from stackedae.plotting.axes import refuse_without_matplotlib
from stackedae.plotting.fitted import random_samples
from stackedae.report import figures, tables
from stackedae.report.tables import Reportable
from stackedae.samples import Reconstructing
from stackedae.stores import write_file

_N_SAMPLES = 1000

# Models and data may come from anybody: whatever they say is escaped.
_TEMPLATES = Environment(
    loader=PackageLoader("stackedae"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Report:
    """A page of HTML that needs nothing else: no network, no script, no other file.

    Notebooks show it where it is the value of a cell.

    Parameters
    ----------
    html : str
        The page.

    See Also
    --------
    StackedAutoEncoder.report : Makes one.
    """

    html: str

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the page to a file, which appears when it is complete.

        Parameters
        ----------
        path : str or Path
            Where to write; folders are made.
        overwrite : bool
            Whether to replace a file that exists.

        Raises
        ------
        StoreExistsError
            If it exists and `overwrite` is not set.
        """
        write_file(path, self.html.encode(), overwrite=overwrite)

    def _repr_html_(self) -> str:
        # In a frame of its own, neither the page's style reaches the notebook
        # nor the notebook's the page; without scripts. Without a base, links
        # within it would lead to the notebook.
        page = self.html.replace("<head>", '<head><base href="about:srcdoc">', 1)
        return (
            f'<iframe sandbox="" title="Report" srcdoc="{html.escape(page)}" '
            'style="width: 100%; height: 40rem; border: 1px solid #888"></iframe>'
        )


def make_report(
    estimator: Reportable, X: Container | None = None, *, title: str | None = None
) -> Report:
    """Return the report of a fitted estimator.

    Parameters
    ----------
    estimator : StackedAutoEncoder, or another estimator of this library
        Fitted.
    X : container of shape (n_samples, …) or None
        Samples, of which some are reconstructed, if the estimator does that.
    title : str or None
        Of the page.

    Returns
    -------
    Report
    """
    check_is_fitted(estimator)
    refuse_without_matplotlib()
    page = _TEMPLATES.get_template("report.html").render(
        title=title or f"Stacked auto-encoder {tables.architecture(estimator)}",
        lead=tables.lead(estimator),
        outcomes=tables.outcomes(estimator),
        layers=tables.of_layers(estimator),
        n_features=estimator.n_features_in_,
        filters=figures.of_filters(estimator),
        convergence=figures.of_convergence(estimator),
        timing=tables.of_timing(estimator),
        activations=figures.of_activations(estimator),
        reconstructions=_of_samples(estimator, X),
        data=tables.of_data(estimator, X),
        parameters=tables.of_parameters(estimator),
        origin=tables.of_origin(estimator.info),
        version=__version__,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return Report(page)


def _of_samples(estimator: Reportable, X: Container | None) -> list[figures.Figure]:
    if X is None or not isinstance(estimator, Reconstructing):
        return []
    drawn: Array = random_samples(estimator, X, _N_SAMPLES, np.random.default_rng(0))
    return figures.of_samples(estimator, drawn)
