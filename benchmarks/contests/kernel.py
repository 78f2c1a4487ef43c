"""Cost and gradient of one sparse auto-encoder, float32, on one core."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from contests.measure import (
    Options,
    alternate,
    installed,
    median_and_range,
    number,
    say,
    seconds_of,
    skipped,
    table,
)
from stackedae.costs import AutoEncoderCost

ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""What must be set before NumPy is imported."""

SHAPES = ((64, 25, 200_000), (192, 400, 20_000), (784, 196, 20_000), (784, 1024, 5_000))
"""Features, hidden units, rows."""

ONE_PASS_FLOPS, EVALUATE_FLOPS = 12, 10
"""Per row and d·h: five products, and one more where ρ̂ is not known beforehand."""

ONE_PASS, EVALUATE = "ours, one pass", "ours, `evaluate`"
BLOCKS = "PyTorch, blocks of "

Evaluate = Callable[[], tuple[float, np.ndarray]]
"""Returns cost and gradient."""


def report(options: Options) -> str:
    """Measure all shapes, and write the section."""
    missing = [name for name, value in ENVIRONMENT.items() if os.environ.get(name) != value]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} not 1: run this through peers.py")
    rows, skips = [], set()
    for d, h, n in SHAPES:
        n = n // 50 if options.quick else n
        say(f"kernel {d}-{h}, {n} rows")
        measured, skips_here = _one_shape(d, h, n, options.repeats)
        rows += measured
        skips |= skips_here
    header = ("d-h, rows", "contender", "seconds", "ratio to ours, one pass", "of SGEMM peak")
    notes = (
        f"Median (lowest–highest) of {options.repeats} alternating calls, one core, float32. "
        "The share is of the SGEMM rate (1024³, best of many, this run), counting "
        f"{ONE_PASS_FLOPS}·d·h operations a row for one pass and {EVALUATE_FLOPS}·d·h for "
        "all others, which is less than blocks of PyTorch really do. "
        "Of the sizes of blocks, only the fastest is shown."
    )
    return "\n\n".join(["## Kernel", table(header, rows), notes, *sorted(skips)])


def _one_shape(d: int, h: int, n: int, repeats: int) -> tuple[list[tuple], set[str]]:
    rng = np.random.default_rng(0)
    X = (0.1 + 0.8 * rng.random((n, d), dtype=np.float32)).astype(np.float32)
    cost = AutoEncoderCost(d, h, sparsity_target=0.01)
    params = cost.initial_params(rng)
    contenders, skips = _contenders(cost, params, X)
    _check_agreement(contenders)
    peak = _sgemm_rate()
    seconds = alternate(contenders, repeats)
    peak = max(peak, _sgemm_rate())
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    blocks = [name for name in medians if name.startswith(BLOCKS)]
    slower = set(blocks) - {min(blocks, key=medians.__getitem__, default="")}
    rows = []
    for name in medians:
        if name not in slower:
            flops = (ONE_PASS_FLOPS if name == ONE_PASS else EVALUATE_FLOPS) * d * h * n
            rows.append(
                (
                    f"{d}-{h}, {n:,}",
                    name,
                    median_and_range(seconds[name]),
                    number(medians[name] / medians[ONE_PASS]),
                    f"{flops / medians[name] / peak:.2f} of {peak / 1e9:.0f} GFLOP/s",
                )
            )
    return rows, skips


def _contenders(
    cost: AutoEncoderCost, params: np.ndarray, X: np.ndarray
) -> tuple[dict[str, Evaluate], set[str]]:
    def one_pass():
        evaluation = cost.finish(params, cost.chunk_sums(params, X))
        return evaluation.cost, evaluation.gradient

    def evaluate():
        evaluation = cost.evaluate(params, X)
        return evaluation.cost, evaluation.gradient

    contenders: dict[str, Evaluate] = {ONE_PASS: one_pass}
    skips = set()
    if hasattr(cost, "evaluate"):
        contenders[EVALUATE] = evaluate
    else:
        skips.add(skipped(EVALUATE, "this version does not have it"))
    if installed("torch"):
        contenders |= _torch_contenders(cost, params, X)
    else:
        skips.add(skipped("torch", "not installed"))
    return contenders, skips


def _torch_contenders(
    cost: AutoEncoderCost, params: np.ndarray, X: np.ndarray
) -> dict[str, Evaluate]:
    import torch

    from contests.torch_cost import TorchCost

    torch.set_num_threads(1)
    peer = TorchCost(cost, X, params)

    def with_gradient(evaluate: Callable[[], float]) -> Evaluate:
        return lambda: (evaluate(), peer.gradient)

    return {f"PyTorch, {way}": with_gradient(call) for way, call in peer.evaluations().items()}


def _check_agreement(contenders: dict[str, Evaluate]) -> None:
    """Refuse to time what does not compute the same."""
    cost, gradient = contenders[ONE_PASS]()
    for name, evaluate in contenders.items():
        its_cost, its_gradient = evaluate()
        off = abs(its_cost - cost) / abs(cost)
        gradient_off = np.linalg.norm(its_gradient - gradient) / np.linalg.norm(gradient)
        if not (off <= 1e-4 and gradient_off <= 1e-3):
            raise AssertionError(
                f"{name}: cost is off by {off:.1e}, gradient by {gradient_off:.1e}"
            )


def _sgemm_rate(size: int = 1024, calls: int = 15) -> float:
    """Best rate of a float32 matrix product, in operations a second."""
    A = np.random.default_rng(0).random((size, size), dtype=np.float32)
    B, out = A.copy(), np.empty_like(A)
    return 2 * size**3 / min(seconds_of(lambda: np.matmul(A, B, out=out)) for _ in range(calls))
