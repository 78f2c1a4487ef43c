"""Features of image patches without labels, learned where the patches are."""

from stackedae._version import __version__
from stackedae.estimators import StackedAutoEncoder
from stackedae.patches import extract_patches, open_patches
from stackedae.preprocessing import ContrastNormalizer

__all__ = [
    "ContrastNormalizer",
    "StackedAutoEncoder",
    "__version__",
    "extract_patches",
    "open_patches",
]
