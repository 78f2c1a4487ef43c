"""Displays of what was learned: stored arrays, drawn by `plot`."""

from stackedae.plotting.activations import ActivationDisplay, UnitActivity
from stackedae.plotting.error_distribution import ErrorDisplay
from stackedae.plotting.feature_maps import FeatureMapDisplay
from stackedae.plotting.filters import FilterDisplay, filter_montage, filters_of
from stackedae.plotting.history import HistoryDisplay
from stackedae.plotting.reconstructions import ReconstructionDisplay

__all__ = [
    "ActivationDisplay",
    "ErrorDisplay",
    "FeatureMapDisplay",
    "FilterDisplay",
    "HistoryDisplay",
    "ReconstructionDisplay",
    "UnitActivity",
    "filter_montage",
    "filters_of",
]
