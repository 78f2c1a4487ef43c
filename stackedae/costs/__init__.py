"""Objectives: pure functions of parameters and rows, which know no engine.

Each cost offers ``chunk_sums(params, X)``, additive over rows, which runs where the rows are, and
``finish(params, sums)``, which runs once and turns sums into a cost and its gradient.
"""

from stackedae.costs.activations import ACTIVATIONS, Activation
from stackedae.costs.autoencoder import AutoEncoderCost
from stackedae.costs.classifier import ClassifierCost
from stackedae.costs.deep import DeepCost
from stackedae.costs.regressor import RegressorCost
from stackedae.evaluation import Evaluation

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "AutoEncoderCost",
    "ClassifierCost",
    "DeepCost",
    "Evaluation",
    "RegressorCost",
]
