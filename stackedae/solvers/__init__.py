"""Solvers: they see a vector and an objective, and know neither Dask nor neurons."""

from stackedae.solvers.adam import Adam, AdamState
from stackedae.solvers.descent import Descent
from stackedae.solvers.gradient_descent import GradientDescent
from stackedae.solvers.lbfgs import LBFGS
from stackedae.solvers.line_search import StrongWolfe
from stackedae.solvers.minimize import Solver, minimize
from stackedae.solvers.state import COST_WINDOW, SolverState, Status
from stackedae.solvers.surrogate import Surrogate

__all__ = [
    "COST_WINDOW",
    "LBFGS",
    "Adam",
    "AdamState",
    "Descent",
    "GradientDescent",
    "Solver",
    "SolverState",
    "Status",
    "StrongWolfe",
    "Surrogate",
    "minimize",
]
