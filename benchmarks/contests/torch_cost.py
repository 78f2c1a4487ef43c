"""The cost of a sparse auto-encoder (logistic units) as a user of PyTorch would write it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import linear

from stackedae.costs import AutoEncoderCost

BLOCK_SIZES = (512, 1024, 2048, 4096, 8192)
"""Rows of a block, of which the fastest is reported."""


class TorchCost:
    """Cost and gradient by autograd, float32, on as many threads as torch was told to use."""

    def __init__(self, cost: AutoEncoderCost, X: np.ndarray, params: np.ndarray) -> None:
        arrays = cost.layout.unpack(params.astype(np.float32)).values()
        self.cost, self.X = cost, torch.from_numpy(X)
        self.parameters = [torch.tensor(array).requires_grad_() for array in arrays]

    @property
    def params(self) -> np.ndarray:
        """The parameters as our vector."""
        return self._vector([p.detach() for p in self.parameters])

    @property
    def gradient(self) -> np.ndarray:
        """The gradient as our vector."""
        return self._vector([p.grad for p in self.parameters])

    def evaluations(self) -> dict[str, Callable[[], float]]:
        """Return the ways to evaluate cost and gradient, by name."""
        ways: dict[str, Callable[[], float]] = {"full batch": self.full_batch}
        for size in BLOCK_SIZES:
            ways[f"blocks of {size}"] = lambda size=size: self.blocks(size)
        return ways

    def full_batch(self) -> float:
        """Evaluate all rows in one graph."""
        self._zero_gradient()
        hidden, error = self._forward(self.X)
        divergence = self._divergence(hidden.mean(0))
        J = 0.5 * (error**2).sum() / len(self.X) + self._decay() + divergence
        J.backward()
        return J.item()

    def blocks(self, size: int) -> float:
        """Evaluate blocks that stay in cache: a pass for ρ̂ without gradient, then one with.

        Given ρ̂, the sparsity term has the gradient of c·ρ̂ with c held fixed.
        """
        self._zero_gradient()
        n = len(self.X)
        with torch.no_grad():
            rho = sum(self._hidden(x).sum(0) for x in self.X.split(size)) / n
            slope = self.divergence_slope(rho)
            J = self._divergence(rho).item()
        for x in self.X.split(size):
            hidden, error = self._forward(x)
            reconstruction = 0.5 * (error**2).sum() / n
            J += reconstruction.item()
            (reconstruction + hidden.sum(0) @ slope / n).backward()
        decay = self._decay()
        decay.backward()
        return J + decay.item()

    def batch_loss(
        self, x: torch.Tensor, rho: torch.Tensor, forget: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a loss of one mini-batch, for its gradient, and ρ̂ averaged over past batches."""
        hidden, error = self._forward(x)
        rho = (1 - forget) * rho + forget * hidden.detach().mean(0)
        sparsity = hidden.mean(0) @ self.divergence_slope(rho)
        return 0.5 * (error**2).sum() / len(x) + self._decay() + sparsity, rho

    def mean_activations(self, x: torch.Tensor) -> torch.Tensor:
        """Return ρ̂ of some rows, without gradient."""
        with torch.no_grad():
            return self._hidden(x).mean(0)

    def divergence_slope(self, rho: torch.Tensor) -> torch.Tensor:
        """Return c = β(−ρ/ρ̂ + (1−ρ)/(1−ρ̂))."""
        target = self.cost.sparsity_target
        return self.cost.sparsity_weight * (-target / rho + (1 - target) / (1 - rho))

    def _divergence(self, rho: torch.Tensor) -> torch.Tensor:
        target = self.cost.sparsity_target
        terms = target * torch.log(target / rho)
        terms = terms + (1 - target) * torch.log((1 - target) / (1 - rho))
        return self.cost.sparsity_weight * terms.sum()

    def _hidden(self, x: torch.Tensor) -> torch.Tensor:
        W1, b1, _, _ = self.parameters
        return torch.sigmoid(linear(x, W1, b1))

    def _forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, _, W2, b2 = self.parameters
        hidden = self._hidden(x)
        return hidden, torch.sigmoid(linear(hidden, W2, b2)) - x

    def _decay(self) -> torch.Tensor:
        W1, _, W2, _ = self.parameters
        return self.cost.alpha / 2 * ((W1**2).sum() + (W2**2).sum())

    def _zero_gradient(self) -> None:
        for p in self.parameters:
            p.grad = None

    def _vector(self, tensors: list[torch.Tensor]) -> np.ndarray:
        names = [name for name, _ in self.cost.layout.shapes]
        values = [tensor.numpy().astype(np.float64) for tensor in tensors]
        return self.cost.layout.pack(dict(zip(names, values, strict=True)))
