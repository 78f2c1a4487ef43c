"""Noise that depends on nothing but a seed and where in the data an entry is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackedae.arrays import AnyArray, beside, namespace_of
from stackedae.errors import ArgumentError

KINDS = ("masking", "gaussian")


@dataclass(frozen=True)
class Corruption:
    r"""Corrupt rows, for an auto-encoder to learn to undo it.

    "masking" sets a random share of the entries to 0; "gaussian" adds :math:`\sigma\,\varepsilon`
    with standard normal ε. The noise in an entry is a pure function of `seed`, `phase`, the number
    of the row and the column: a hash, so that it is the same however often and wherever a row is
    looked at.

    Parameters
    ----------
    kind : {"masking", "gaussian"}
        What to do to entries.
    amount : float
        The share, below 1, or σ.
    seed, phase : int
        Of the noise: other numbers, other noise.

    Raises
    ------
    ArgumentError
        If the kind is unknown, or the amount is none.

    References
    ----------
    Vincent, P., Larochelle, H., Lajoie, I., Bengio, Y., Manzagol, P.-A., "Stacked denoising
    autoencoders", JMLR 11, 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae.noise import Corruption
    >>> half = Corruption("masking", 0.5)
    >>> half.apply(np.ones((2, 8)), np.array([0, 1]))
    array([[0., 1., 0., 0., 1., 1., 1., 0.],
           [0., 0., 1., 1., 1., 0., 0., 1.]])
    """

    kind: str
    amount: float
    seed: int = 0
    phase: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ArgumentError(
                "corruption", self.kind, "is unknown", f"choose from {', '.join(KINDS)}"
            )
        most = 1.0 if self.kind == "masking" else math.inf
        if not 0 < self.amount < most:
            raise ArgumentError(
                "corruption",
                self.amount,
                f"is no amount of {self.kind} noise",
                "pass a share between 0 and 1"
                if self.kind == "masking"
                else "pass a standard deviation above 0",
            )

    def apply(self, x: AnyArray, row: NDArray[Any]) -> AnyArray:
        """Return rows with noise in them, as a new array.

        Parameters
        ----------
        x : array of shape (…, n_features), float32 or float64
            Rows, in any library with the array API.
        row : ndarray of shape (…)
            Number of each row in the data.

        Returns
        -------
        array of the shape and dtype of x
        """
        xp, bits = namespace_of(x), self._bits(x, row)
        if self.kind == "masking":
            return x * xp.astype(bits >= int(self.amount * 2**32), x.dtype)
        # Box and Muller; 24 bits are all that a float32 can tell apart.
        u = xp.astype(bits >> 8, x.dtype) + 0.5
        u *= 2.0**-24
        angle = xp.astype(_mixed(bits + 0x9E3779B9) >> 8, x.dtype) * (math.tau * 2.0**-24)
        return x + self.amount * (xp.sqrt(-2.0 * xp.log(u)) * xp.cos(angle))

    def _bits(self, x: AnyArray, row: NDArray[Any]) -> AnyArray:
        """Return 32 random bits for every entry of x."""
        key = _seeded(row.astype(np.uint64), self.seed, self.phase)
        column = _seeded(np.arange(x.shape[-1], dtype=np.uint64), self.phase, ~self.seed)
        factor, offset = (key >> np.uint64(32)) | np.uint64(1), key
        factor, offset, column = (
            beside(x, (each & np.uint64(2**32 - 1))[..., None], np.uint32)
            for each in (factor, offset, column)
        )
        xp = namespace_of(x)
        bits = factor * xp.reshape(column, (-1,))  # modulo 2³², as all that follows
        bits += offset
        return _mixed(bits)


def _seeded(numbers: NDArray[np.uint64], *seeds: int) -> NDArray[np.uint64]:
    """Return 64 random bits for every number: those of splitmix64, once for each seed."""
    z = numbers
    for seed in seeds:
        z = z * np.uint64(0x9E3779B97F4A7C15) + np.uint64((seed + 0x2545F4914F6CDD1D) % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return z


def _mixed(h: AnyArray) -> AnyArray:
    """Return a permutation of 32 bits in which each depends on all."""
    h ^= h >> 16
    h *= 0x7FEB352D
    h ^= h >> 15
    h *= 0x846CA68B
    h ^= h >> 16
    return h
