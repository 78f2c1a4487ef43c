"""Features of image patches without labels, learned where the patches are."""

import stackedae.datasets as datasets
from stackedae._version import __version__
from stackedae.estimators import StackedAutoEncoder
from stackedae.patches import extract_patches, open_patches
from stackedae.plotting import FilterDisplay
from stackedae.preprocessing import ContrastNormalizer

__all__ = [
    "ContrastNormalizer",
    "FilterDisplay",
    "StackedAutoEncoder",
    "__version__",
    "datasets",
    "extract_patches",
    "open_patches",
]
