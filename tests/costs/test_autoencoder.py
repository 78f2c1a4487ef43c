from dataclasses import replace
from itertools import product
from pathlib import Path

import array_api_strict
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from stackedae import memory
from stackedae.costs import ACTIVATIONS, AutoEncoderCost
from stackedae.errors import ArgumentError, DataError
from stackedae.memory import MAX_BLOCK_ROWS
from stackedae.moments import Moments, scatter_sums

SHARED = Path(__file__).parents[3] / "shared"

# Octave's numbers for 484 patches of the camera image, 64-12, alpha 1e-3, rho 0.05:
# J, norm of the gradient, gradient·cos(1, 2, …), and its entries 0, 767 and -1.
REFERENCE = {
    ("logistic", 2.0): (
        14.005746588534926,
        13.170158633887493,
        0.31908453103391726,
        0.5365912370859656,
        0.5667453577118987,
        -0.010627642900503049,
    ),
    ("logistic", 0.0): (
        1.8213918074351398,
        0.2751587722866923,
        0.0016782947728035686,
        0.005535356045550032,
        0.00671458000362257,
        -0.010627642900503049,
    ),
    ("identity", 2.0): (
        23.823571224687612,
        16.457328575139236,
        1.1040269078474512,
        0.623057819540378,
        0.6875194266910768,
        -0.6278255127524035,
    ),
}


def evaluate(cost, params, X):
    return cost.finish(params, cost.chunk_sums(params, X))


def small_problem(**settings):
    cost = AutoEncoderCost(n_features=5, n_hidden=3, alpha=0.01, **settings)
    rng = np.random.default_rng(0)
    return cost, rng.normal(scale=0.5, size=cost.layout.size), rng.uniform(0.1, 0.9, (20, 5))


@pytest.mark.parametrize(("output_activation", "sparsity_weight"), REFERENCE)
def test_reference_numbers(camera_patches, output_activation, sparsity_weight):
    cost = AutoEncoderCost(
        64,
        12,
        output_activation=output_activation,
        alpha=1e-3,
        sparsity_target=0.05,
        sparsity_weight=sparsity_weight,
    )
    params = 0.3 * np.sin(np.arange(1, 1613))
    assert camera_patches.sum() == pytest.approx(15687.974901960784, rel=1e-14)
    J, norm, product_with_cos, first, middle, last = REFERENCE[output_activation, sparsity_weight]
    evaluation = evaluate(cost, params, camera_patches)
    g = evaluation.gradient
    assert evaluation.cost == pytest.approx(J, rel=1e-12)
    assert np.linalg.norm(g) == pytest.approx(norm, rel=1e-12)
    # These may cancel, so they are compared on the scale of the gradient.
    seen = [g @ np.cos(np.arange(1, g.size + 1)), g[0], g[767], g[-1]]
    assert seen == pytest.approx([product_with_cos, first, middle, last], abs=1e-10 * norm)

    single = evaluate(cost, params, camera_patches.astype(np.float32))
    assert single.cost == pytest.approx(evaluation.cost, rel=1e-5)
    assert single.gradient == pytest.approx(g, abs=1e-5 * np.abs(g).max())


@pytest.mark.skipif(not SHARED.exists(), reason="the reference patches are not here")
@pytest.mark.parametrize("point", ["0", "_rand", "_opt"])
def test_reference_patches(point):
    reference = np.load(SHARED / "oracle" / "natural_8x8.npz")
    cost = AutoEncoderCost(64, 25, alpha=1e-4, sparsity_target=0.01, sparsity_weight=3.0)

    def from_octave(theta):
        W1, W2, b1, b2 = np.split(theta, [1600, 3200, 3225])
        W1, W2 = W1.reshape(25, 64, order="F"), W2.reshape(64, 25, order="F")
        return cost.layout.pack({"W1": W1, "b1": b1, "W2": W2, "b2": b2})

    params = from_octave(reference["theta" + point])
    evaluation = evaluate(cost, params, reference["patches"])
    gradient = from_octave(reference["grad" + point])
    assert evaluation.cost == pytest.approx(float(reference["cost" + point]), rel=1e-12)
    assert list(evaluation.terms.values()) == pytest.approx(reference["terms" + point], rel=1e-12)
    error = np.linalg.norm(evaluation.gradient - gradient) / np.linalg.norm(gradient)
    assert error < 1e-10


KINDS = pytest.mark.parametrize(
    ("activation", "output_activation", "sparsity_weight"),
    [
        (f, g, beta)
        for f, g, beta in product(ACTIVATIONS, ACTIVATIONS, (0.0, 2.0))
        if beta == 0 or ACTIVATIONS[f].bounded
    ],
)


@KINDS
def test_gradient_is_the_slope(activation, output_activation, sparsity_weight):
    cost, params, X = small_problem(
        activation=activation,
        output_activation=output_activation,
        sparsity_weight=sparsity_weight,
    )
    gradient = evaluate(cost, params, X).gradient
    step = 1e-6
    slopes = [
        (evaluate(cost, params + step * e, X).cost - evaluate(cost, params - step * e, X).cost)
        / (2 * step)
        for e in np.eye(params.size)
    ]
    assert gradient == pytest.approx(np.array(slopes), abs=1e-8)


def with_gaps(X, share=0.2, seed=3):
    """Put NaN for a share of the entries."""
    missing = np.random.default_rng(seed).random(X.shape) < share
    return np.where(missing, np.nan, X).astype(X.dtype)


def masked_problem(**settings):
    """Rows with gaps: one has nothing but gaps, one none, and one feature is never present."""
    cost, params, X = small_problem(fill=(0.3, -0.2, 0.0, 0.9, 0.5), **settings)
    X = with_gaps(X)
    X[0], X[1], X[:, 2] = np.nan, 0.4, np.nan
    return cost, params, X


def masked_reference(cost, params, X):
    """Write the definition down: J and its terms, of rows with gaps."""
    P = cost.layout.unpack(params)
    f, g = (
        {
            "logistic": lambda z: 1 / (1 + np.exp(-z)),
            "tanh": np.tanh,
            "relu": lambda z: np.maximum(z, 0),
            "identity": lambda z: z,
        }[name]
        for name in (cost.activation, cost.output_activation)
    )
    m = (~np.isnan(X)).astype(float)
    filled = m * np.nan_to_num(X) + (1 - m) * np.array(cost.fill)
    A = f(filled @ P["W1"].T + P["b1"])
    R = g(A @ P["W2"].T + P["b2"])
    reconstruction = 0.5 * ((m * (R - filled)) ** 2).sum() / len(X)
    decay = cost.alpha / 2 * ((P["W1"] ** 2).sum() + (P["W2"] ** 2).sum())
    rho, share = cost.sparsity_target, A.mean(axis=0)
    share = (1 + share) / 2 if cost.activation == "tanh" else share
    divergence = 0.0
    if cost.sparsity_weight:
        terms = rho * np.log(rho / share) + (1 - rho) * np.log((1 - rho) / (1 - share))
        divergence = cost.sparsity_weight * terms.sum()
    return {"reconstruction": reconstruction, "decay": decay, "sparsity": divergence}


@KINDS
def test_gaps_take_no_part_in_the_cost(activation, output_activation, sparsity_weight):
    cost, params, X = masked_problem(
        activation=activation,
        output_activation=output_activation,
        sparsity_weight=sparsity_weight,
    )
    expected = masked_reference(cost, params, X)
    for evaluation in (evaluate(cost, params, X), cost.evaluate(params, X)):
        assert evaluation.terms == pytest.approx(expected, rel=1e-13)
        assert evaluation.cost == pytest.approx(sum(expected.values()), rel=1e-13)


@KINDS
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_gradient_is_the_slope_where_entries_are_missing(
    activation, output_activation, sparsity_weight, scale
):
    cost, params, X = masked_problem(
        activation=activation,
        output_activation=output_activation,
        sparsity_weight=sparsity_weight,
    )
    params, step = scale * params, 1e-5

    def slope(e):
        up, down = (sum(masked_reference(cost, p, X).values()) for p in (params + e, params - e))
        return (up - down) / (2 * step)

    slopes = np.array([slope(step * e) for e in np.eye(params.size)])
    for evaluation in (evaluate(cost, params, X), cost.evaluate(params, X)):
        error = np.linalg.norm(evaluation.gradient - slopes)
        assert error < 1e-7 * np.linalg.norm(slopes)


@pytest.mark.parametrize("fill", [(), (0.4,) * 6])
@pytest.mark.parametrize("sparsity_weight", [0.0, 2.0])
@given(cuts=st.lists(st.integers(0, 3000), max_size=5))
def test_sums_of_chunks_add_up(sparsity_weight, fill, cuts):
    cost = AutoEncoderCost(6, 4, sparsity_weight=sparsity_weight, fill=fill)
    rng = np.random.default_rng(1)
    params, X = rng.normal(size=cost.layout.size), rng.random((3000, 6))
    X = with_gaps(X) if fill else X
    chunks = np.split(X, sorted(cuts))
    sums = sum(cost.chunk_sums(params, chunk) for chunk in chunks)
    whole, parts = evaluate(cost, params, X), cost.finish(params, sums)
    assert parts.cost == pytest.approx(whole.cost, rel=1e-12)
    norm = np.linalg.norm(whole.gradient)
    assert np.linalg.norm(parts.gradient - whole.gradient) <= 1e-12 * norm


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32, np.float64, bool])
def test_any_real_dtype_is_worked_with(dtype):
    cost, params, _ = small_problem()
    X = np.random.default_rng(0).integers(0, 2, (20, 5))
    expected = evaluate(cost, params, X.astype(np.float64))
    assert evaluate(cost, params, X.astype(dtype)).cost == pytest.approx(expected.cost, rel=1e-5)


@pytest.mark.parametrize("activation", ["logistic", "tanh"])
@pytest.mark.parametrize("bias", [-1e3, 1e3])
def test_saturated_units_leave_cost_and_gradient_finite(activation, bias):
    cost, params, X = small_problem(activation=activation)
    cost.layout.unpack(params)["b1"][:] = bias
    evaluation = evaluate(cost, params, X)
    assert evaluation.is_finite
    share = ACTIVATIONS[activation].low if bias < 0 else 1
    assert evaluation.means["activations"] == pytest.approx(share)


def test_terms_add_up_to_the_cost():
    cost, params, X = small_problem()
    evaluation = evaluate(cost, params, X)
    assert set(evaluation.terms) == {"reconstruction", "decay", "sparsity"}
    assert evaluation.cost == pytest.approx(sum(evaluation.terms.values()), rel=1e-15)


def test_layout_is_row_major():
    cost = AutoEncoderCost(3, 2)
    assert cost.layout.shapes == (("W1", (2, 3)), ("b1", (2,)), ("W2", (3, 2)), ("b2", (3,)))


@pytest.mark.parametrize("problem", [small_problem, masked_problem])
@pytest.mark.parametrize("sparsity_weight", [0.0, 3.0])
def test_encode_and_decode_are_the_halves_of_the_cost(sparsity_weight, problem):
    cost, params, X = problem(sparsity_weight=sparsity_weight)
    A = cost.encode(params, X)
    error = np.nan_to_num(cost.decode(params, A) - X)
    evaluation = evaluate(cost, params, X)
    assert A.mean(axis=0) == pytest.approx(evaluation.means["activations"])
    assert 0.5 * (error**2).sum() / len(X) == pytest.approx(evaluation.terms["reconstruction"])


def moments_of(X):
    return Moments.from_sums(X.mean(axis=0), scatter_sums(X.mean(axis=0), X), len(X))


@pytest.mark.parametrize("activation", ["logistic", "tanh"])
def test_the_mean_row_starts_at_the_target(activation):
    cost = AutoEncoderCost(5, 3, activation=activation, sparsity_target=0.05)
    X = np.random.default_rng(0).uniform(0.2, 0.8, (100, 5))
    params = cost.initial_params(np.random.default_rng(0), moments_of(X))
    f = ACTIVATIONS[activation]
    share = (cost.encode(params, X.mean(axis=0, keepdims=True)) - f.low) / (f.high - f.low)
    assert share == pytest.approx(0.05)


@pytest.mark.parametrize("sparsity_weight", [0.0, 3.0])
@pytest.mark.parametrize("n_features", [5, 3000], ids=["covariance", "variances only"])
def test_preconditioner_is_symmetric_and_positive(n_features, sparsity_weight):
    rng = np.random.default_rng(0)
    X = rng.normal(loc=3, size=(50, n_features))
    cost = AutoEncoderCost(n_features, 2, sparsity_weight=sparsity_weight)
    M = cost.preconditioner(moments_of(X))
    u, v = rng.normal(size=(2, cost.layout.size))
    assert u @ M(v) == pytest.approx(v @ M(u))
    assert u @ M(u) > 0
    assert M.inverse(M(u)) == pytest.approx(u, abs=1e-8 * np.abs(M(u)).max())


def test_preconditioner_of_constant_rows_is_finite():
    X = np.full((4, 3), 0.5)
    cost = AutoEncoderCost(3, 2)
    assert np.isfinite(cost.preconditioner(moments_of(X))(np.ones(cost.layout.size))).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_hidden": 0}, "n_hidden=0 is no size; pass 1 or more"),
        ({"activation": "sine"}, "activation='sine' is unknown; choose from logistic, tanh"),
        ({"alpha": -1.0}, "alpha=-1.0 is not a finite weight; pass 0 or more"),
        ({"sparsity_weight": np.nan}, "sparsity_weight=nan is not a finite weight"),
        ({"sparsity_target": 1.0}, "sparsity_target=1.0 is no mean activation between 0 and 1"),
        ({"activation": "relu"}, "sparsity_weight=3.0 needs a bounded.*pass sparsity_weight=0, or"),
        ({"activation": "identity"}, "sparsity_weight=3.0 needs a bounded activation"),
        (
            {"fill": (1.0, 2.0)},
            r"fill=\(1\.0, 2\.0\) has 2 values for 4 features; pass one for each",
        ),
        ({"fill": (0.0, np.nan, 0.0, 1.0)}, "fill=.* is not finite everywhere; pass numbers"),
        ({"fill": (0.0, np.inf, 0.0, 1.0)}, "fill=.* is not finite everywhere"),
    ],
)
def test_hyper_parameters_are_checked(settings, message):
    with pytest.raises(ArgumentError, match=message):
        AutoEncoderCost(**{"n_features": 4, "n_hidden": 2, **settings})


def test_rows_of_another_size_are_refused():
    cost = AutoEncoderCost(4, 2)
    with pytest.raises(ArgumentError, match=r"X.shape=\(3, 5\) .* pass \(n_rows, 4\)"):
        cost.chunk_sums(cost.layout.zeros(), np.zeros((3, 5)))


def test_no_rows_are_refused():
    cost = AutoEncoderCost(4, 2)
    params = cost.layout.zeros()
    with pytest.raises(DataError, match="no rows"):
        cost.finish(params, cost.chunk_sums(params, np.zeros((0, 4))))


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize(("activation", "output"), [("logistic", "identity"), ("tanh", "relu")])
def test_other_array_libraries_do_the_work_where_the_rows_are(activation, output, dtype):
    # array-api-strict refuses what the standard does not promise, and a stray
    # np.asarray of what is on its second device.
    cost = AutoEncoderCost(6, 4, activation=activation, output_activation=output)
    rng = np.random.default_rng(1)
    params, X = rng.normal(size=cost.layout.size), (9 * rng.random((5000, 6))).astype(dtype)
    there = array_api_strict.asarray(X, device=array_api_strict.Device("device1"))
    assert cost.chunk_sums(params, there).tobytes() == cost.chunk_sums(params, X).tobytes()
    here = cost.evaluate(params, X)
    assert cost.evaluate(params, there).gradient.tobytes() == here.gradient.tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_other_array_libraries_fill_gaps_too(dtype):
    cost = AutoEncoderCost(6, 4, fill=(0.5, 3.0, -1.0, 0.0, 7.0, 2.0))
    rng = np.random.default_rng(1)
    params, X = rng.normal(size=cost.layout.size), (9 * rng.random((5000, 6))).astype(dtype)
    X = with_gaps(X) if dtype != "uint8" else X
    there = array_api_strict.asarray(X, device=array_api_strict.Device("device1"))
    assert cost.chunk_sums(params, there).tobytes() == cost.chunk_sums(params, X).tobytes()
    here = cost.evaluate(params, X)
    assert cost.evaluate(params, there).gradient.tobytes() == here.gradient.tobytes()


@pytest.mark.parametrize("sparsity_weight", [0.0, 2.0])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_where_nothing_is_missing_the_bits_are_those_of_the_plain_cost(dtype, sparsity_weight):
    plain = AutoEncoderCost(6, 4, sparsity_weight=sparsity_weight)
    filling = replace(plain, fill=(0.5, 3.0, -1.0, 0.0, 7.0, 2.0))
    rng = np.random.default_rng(1)
    params, X = rng.normal(size=plain.layout.size), (9 * rng.random((5000, 6))).astype(dtype)
    if dtype != "uint8":
        X[:2] = [[-0.0, 0.0, -1.0, 1e4, -1e4, 6e-8]]  # the last is subnormal in half precision
    assert filling.chunk_sums(params, X).tobytes() == plain.chunk_sums(params, X).tobytes()
    one, other = (cost.evaluate(params, X) for cost in (filling, plain))
    assert (one.cost, one.gradient.tobytes()) == (other.cost, other.gradient.tobytes())
    encoded = (cost.encode(params, X).tobytes() for cost in (filling, plain))
    assert next(encoded) == next(encoded)


@pytest.mark.parametrize("sparsity_weight", [0.0, 2.0])
@pytest.mark.parametrize("activation", ["logistic", "tanh"])
def test_keeping_the_codes_gives_the_same(activation, sparsity_weight):
    cost = AutoEncoderCost(6, 4, activation=activation, sparsity_weight=sparsity_weight)
    rng = np.random.default_rng(1)
    params, X = rng.normal(size=cost.layout.size), rng.random((5000, 6))
    kept, summed = cost.evaluate(params, X), evaluate(cost, params, X)
    assert kept.cost == pytest.approx(summed.cost, rel=1e-14)
    assert kept.gradient == pytest.approx(summed.gradient, rel=1e-10)
    assert kept.means["activations"] == pytest.approx(summed.means["activations"], rel=1e-14)


@pytest.mark.parametrize("fill", [(), (0.4,) * 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_going_on_from_sums_gives_the_same_bits(dtype, fill):
    cost = AutoEncoderCost(6, 4, fill=fill)
    rng = np.random.default_rng(1)
    params, X = rng.normal(size=cost.layout.size), (9 * rng.random((30_000, 6))).astype(dtype)
    X = with_gaps(X) if fill and X.dtype.kind == "f" else X
    sums = None
    for start in range(0, len(X), 2 * MAX_BLOCK_ROWS):
        sums = cost.chunk_sums(params, X[start : start + 2 * MAX_BLOCK_ROWS], sums)
    assert sums.tobytes() == cost.chunk_sums(params, X).tobytes()


@pytest.mark.parametrize("fill", [(), (0.4,) * 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bits_do_not_depend_on_how_many_blocks_are_stacked(dtype, fill, monkeypatch):
    cost = AutoEncoderCost(64, 5, fill=fill)
    rng = np.random.default_rng(1)
    params, X = rng.normal(size=cost.layout.size), rng.random((10_000, 64)).astype(dtype)
    X = with_gaps(X) if fill else X
    stacked, kept = cost.chunk_sums(params, X), cost.evaluate(params, X).gradient
    monkeypatch.setattr(memory, "STACK_BYTES", 1)
    assert memory.blocks_per_stack(64, 5) == 1
    assert cost.chunk_sums(params, X).tobytes() == stacked.tobytes()
    assert cost.evaluate(params, X).gradient.tobytes() == kept.tobytes()
