"""Noise that depends on nothing but a seed and where in the data an entry is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stackedae.arrays import AnyArray, Scratch, beside, cast, empty_beside, into, namespace_of
from stackedae.errors import ArgumentError
from stackedae.moments import Moments

KINDS = ("masking", "gaussian")


@dataclass(frozen=True)
class Corruption:
    r"""Corrupt rows, for an auto-encoder to learn to undo it.

    "masking" sets a random share of the entries to 0; "gaussian" adds :math:`\sigma\,\varepsilon`
    with standard normal ε. The noise in an entry is a pure function of `seed`, `phase`, the number
    of the row and the column: a hash, so that it is the same however often and wherever a row is
    looked at. ε has the precision of float32, whatever that of the rows.

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

    def apply(self, x: AnyArray, row: NDArray[Any], out: AnyArray | None = None) -> AnyArray:
        """Return rows with noise in them.

        Parameters
        ----------
        x : array of shape (…, n_rows, n_features), float32 or float64
            Rows, in any library with the array API.
        row : ndarray of shape (…, n_rows)
            Number of each row in the data.
        out : array of the shape and dtype of x, or None
            Where to write them; a new array if None.

        Returns
        -------
        array of the shape and dtype of x
        """
        xp, bits = namespace_of(x), self._bits(x, row)
        noisy = xp.empty_like(x) if out is None else out
        if self.kind == "masking":
            kept = _scratch_like(x, "kept", "bool")
            into(kept, xp.greater_equal, bits, int(self.amount * 2**32))
            return into(noisy, xp.multiply, x, _as_floats(kept, "noise"))
        return into(noisy, xp.add, x, _normal(bits, self.amount))

    def moments(self, clean: Moments) -> Moments:
        """Return the mean and covariance of rows with noise, from those of the rows without.

        Parameters
        ----------
        clean : Moments
            Of the rows.

        Returns
        -------
        Moments

        Examples
        --------
        >>> import numpy as np
        >>> from stackedae.moments import Moments
        >>> from stackedae.noise import Corruption
        >>> Corruption("gaussian", 2.0).moments(Moments(np.zeros(2), np.eye(2))).covariance
        array([[5., 0.],
               [0., 5.]])
        """
        kept, added = 1.0, np.full_like(clean.mean, self.amount**2)
        if self.kind == "masking":
            kept = 1 - self.amount
            added = kept * self.amount * (clean.variances + clean.mean**2)
        covariance = kept**2 * clean.covariance
        covariance += np.diag(added) if covariance.ndim == 2 else added
        return Moments(kept * clean.mean, covariance)

    def _bits(self, x: AnyArray, row: NDArray[Any]) -> AnyArray:
        """Return 32 random bits for every entry of x."""
        key = _seeded(row.astype(np.uint64), self.seed, self.phase)
        column = _seeded(np.arange(x.shape[-1], dtype=np.uint64), self.phase, ~self.seed)
        factor, offset = (key >> np.uint64(32)) | np.uint64(1), key
        factor, offset, column = (
            beside(x, each & np.uint64(2**32 - 1), np.uint32)[..., None]
            for each in (factor, offset, column)
        )
        xp, bits = namespace_of(x), _scratch_like(x, "bits", "uint32")
        into(bits, xp.multiply, factor, xp.reshape(column, (-1,)))  # modulo 2³², as what follows
        bits += offset
        return _mixed(bits)


def _normal(bits: AnyArray, sigma: float) -> AnyArray:
    """Return normal deviates in float32, by Box and Muller; the bits are spent."""
    xp, radius = namespace_of(bits), _as_floats(bits, "noise")
    bits += 0x9E3779B9
    angle = _as_floats(_mixed(bits), "angle")
    angle *= math.tau * 2.0**-32
    into(angle, xp.cos, angle)
    radius += 0.5
    radius *= 2.0**-32
    into(radius, xp.log, radius)
    radius *= -2.0 * sigma**2
    into(radius, xp.sqrt, radius)
    radius *= angle
    return radius


def _seeded(numbers: NDArray[np.uint64], *seeds: int) -> NDArray[np.uint64]:
    """Return 64 random bits for every number: those of splitmix64, once for each seed."""
    z = numbers
    for seed in seeds:
        z = z * np.uint64(0x9E3779B97F4A7C15) + np.uint64((int(seed) + 0x2545F4914F6CDD1D) % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return z


def _mixed(h: AnyArray) -> AnyArray:
    """Return a permutation of 32 bits in which each depends on all, in place."""
    xp, shifted = namespace_of(h), _scratch_like(h, "shifted", "uint32")
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        h ^= into(shifted, xp.bitwise_right_shift, h, shift)
        h *= factor
    return h


def _as_floats(values: AnyArray, name: str) -> AnyArray:
    """Return integers or bools as float32."""
    floats = _scratch_like(values, name, "float32")
    floats[...] = values if isinstance(values, np.ndarray) else cast(values, "float32")
    return floats


def _scratch_like(x: AnyArray, name: str, dtype: str) -> AnyArray:
    """Return an array of any values, shaped like x and beside it, in memory that is used again."""
    if isinstance(x, np.ndarray):
        return _SCRATCH.empty(name, x.shape, dtype)
    return empty_beside(x, x.shape, dtype)


_SCRATCH = Scratch()
