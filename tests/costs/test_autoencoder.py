from dataclasses import replace
from functools import partial
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
from stackedae.noise import Corruption
from stackedae.solvers import LBFGS, minimize

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


def evaluate(cost, params, X, **beside):
    return cost.finish(params, cost.chunk_sums(params, X, **beside))


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


def reference(cost, params, X, row=None, weight=None):
    """Write the definition down: the terms of J, of rows with gaps, noise, and weights."""
    P = cost.layout.unpack(params)
    W1, W2 = P["W1"], P["W1"].T if cost.tied else P["W2"]
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
    filled = m * np.nan_to_num(X) + (1 - m) * np.array(cost.fill or 0.0)
    noisy = filled if cost.corruption is None else cost.corruption.apply(filled, row)
    A = f(noisy @ W1.T + P["b1"])
    R = g(A @ W2.T + P["b2"])
    share = np.ones(len(X)) if weight is None else weight
    share = share / share.sum()
    reconstruction = 0.5 * (share @ (m * (R - filled)) ** 2).sum()
    decay = cost.alpha / 2 * ((W1**2).sum() + (W2**2).sum())
    rho, mean = cost.sparsity_target, share @ A
    mean = (1 + mean) / 2 if cost.activation == "tanh" else mean
    divergence = 0.0
    if cost.sparsity_weight:
        terms = rho * np.log(rho / mean) + (1 - rho) * np.log((1 - rho) / (1 - mean))
        divergence = cost.sparsity_weight * terms.sum()
    return {"reconstruction": reconstruction, "decay": decay, "sparsity": divergence}


def reference_gradient(cost, params, X, step=1e-5, **beside):
    """Central differences of the definition."""

    def slope(e):
        up, down = (sum(reference(cost, p, X, **beside).values()) for p in (params + e, params - e))
        return (up - down) / (2 * step)

    return np.array([slope(step * e) for e in np.eye(params.size)])


@KINDS
def test_gaps_take_no_part_in_the_cost(activation, output_activation, sparsity_weight):
    cost, params, X = masked_problem(
        activation=activation,
        output_activation=output_activation,
        sparsity_weight=sparsity_weight,
    )
    expected = reference(cost, params, X)
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
    params = scale * params
    slopes = reference_gradient(cost, params, X)
    for evaluation in (evaluate(cost, params, X), cost.evaluate(params, X)):
        error = np.linalg.norm(evaluation.gradient - slopes)
        assert error < 1e-7 * np.linalg.norm(slopes)


MASKING, GAUSSIAN = Corruption("masking", 0.4, seed=2), Corruption("gaussian", 0.3, seed=2)

FILLS = pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
NOISES = pytest.mark.parametrize(
    "corruption", [None, MASKING, GAUSSIAN], ids=["clean", "masking", "gaussian"]
)
TIES = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
WEIGHTS = pytest.mark.parametrize("weighted", [False, True], ids=["counted", "weighted"])


def known(n_rows, weighted):
    """Numbers of rows in no order, and weights, some of them zero."""
    rng = np.random.default_rng(4)
    weight = rng.integers(0, 4, n_rows) / 4
    return {"row": rng.permutation(10 * n_rows)[:n_rows], "weight": weight if weighted else None}


@TIES
@NOISES
@FILLS
@WEIGHTS
@pytest.mark.parametrize("sparsity_weight", [0.0, 2.0])
def test_noise_ties_gaps_and_weights_go_together(
    tied, corruption, masked, weighted, sparsity_weight
):
    problem = masked_problem if masked else small_problem
    cost, params, X = problem(tied=tied, corruption=corruption, sparsity_weight=sparsity_weight)
    beside = known(len(X), weighted)
    terms = reference(cost, params, X, **beside)
    slopes = reference_gradient(cost, params, X, **beside)
    for method in (partial(evaluate, cost), cost.evaluate):
        evaluation = method(params, X, **beside)
        assert evaluation.terms == pytest.approx(terms, rel=1e-12)
        error = np.linalg.norm(evaluation.gradient - slopes)
        assert error < 1e-7 * np.linalg.norm(slopes)
        assert evaluation.n_rows == len(X)


LARGE = pytest.mark.parametrize(
    ("d", "n_rows"), [(6, 5000), (64, 5300)], ids=["two blocks", "a stack"]
)


def large_problem(d, n_rows, masked=False, dtype="float64", **settings):
    cost = AutoEncoderCost(d, 5, fill=(0.4,) * d if masked else (), **settings)
    rng = np.random.default_rng(1)
    params, X = rng.normal(size=cost.layout.size) / np.sqrt(d), 3 * rng.random((n_rows, d))
    return cost, params, (with_gaps(X) if masked else X).astype(dtype)


def assert_close(one, other, rel=1e-12):
    assert one.cost == pytest.approx(other.cost, rel=rel)
    norm = np.linalg.norm(other.gradient)
    assert np.linalg.norm(one.gradient - other.gradient) <= rel * norm
    for name, mean in other.means.items():
        assert one.means[name] == pytest.approx(mean, rel=rel)


@LARGE
@FILLS
@NOISES
@pytest.mark.parametrize("sparsity_weight", [0.0, 2.0])
def test_a_weight_is_so_many_rows(d, n_rows, masked, corruption, sparsity_weight):
    cost, params, X = large_problem(
        d, n_rows, masked, corruption=corruption, sparsity_weight=sparsity_weight
    )
    row, times = np.arange(n_rows), np.random.default_rng(4).integers(0, 4, n_rows)
    repeated = {"X": np.repeat(X, times, axis=0), "row": np.repeat(row, times)}
    weighted = {"X": X, "row": row, "weight": times}
    for method in (partial(evaluate, cost), cost.evaluate):
        assert_close(method(params, **weighted), method(params, **repeated))
        assert method(params, **weighted).n_rows == n_rows
    tenth = {**weighted, "weight": times / 10}
    assert_close(cost.evaluate(params, **tenth), cost.evaluate(params, **weighted))


def test_single_precision_is_enough_for_weights():
    cost, params, X = large_problem(64, 5300, corruption=GAUSSIAN)
    weight = np.random.default_rng(4).random(5300)
    double = cost.evaluate(params, X, weight=weight)
    assert_close(cost.evaluate(params, X.astype(np.float32), weight=weight), double, rel=1e-5)


@pytest.mark.parametrize(
    ("tied", "corruption", "weighted"),
    [(True, MASKING, True), (False, GAUSSIAN, False), (False, None, True)],
)
@given(cuts=st.lists(st.integers(0, 3000), max_size=4))
def test_sums_of_chunks_add_up_with_what_is_beside(tied, corruption, weighted, cuts):
    cost, params, X = large_problem(6, 3000, tied=tied, corruption=corruption)
    beside = known(len(X), weighted)
    edges = [0, *sorted(cuts), len(X)]
    sums = 0
    for rows in map(slice, edges[:-1], edges[1:]):
        of_rows = {k: None if v is None else v[rows] for k, v in beside.items()}
        sums = sums + cost.chunk_sums(params, X[rows], **of_rows)
    assert_close(cost.finish(params, sums), evaluate(cost, params, X, **beside))


@NOISES
def test_rows_are_numbered_from_zero_if_nobody_says_otherwise(corruption):
    cost, params, X = large_problem(6, 5000, corruption=corruption)
    for row in (None, np.arange(5000)):
        sums = cost.chunk_sums(params, X, row=row).tobytes()
        assert sums == cost.chunk_sums(params, X).tobytes()
    assert cost.aside == (() if corruption is None else ("row",))
    others = cost.chunk_sums(params, X, row=np.arange(5000) + 1).tobytes()
    assert (others == sums) == (corruption is None)


@NOISES
@TIES
def test_no_noise_in_what_is_encoded(corruption, tied):
    cost, params, X = small_problem(corruption=corruption, tied=tied)
    clean = replace(cost, corruption=None)
    A = clean.encode(params, X)
    assert cost.encode(params, X).tobytes() == A.tobytes()
    assert cost.decode(params, A).tobytes() == clean.decode(params, A).tobytes()


def test_tied_weights_are_the_same_matrix_twice():
    cost, params, X = small_problem(tied=True)
    assert cost.layout.shapes == (("W1", (3, 5)), ("b1", (3,)), ("b2", (5,)))
    untied = replace(cost, tied=False)
    P = cost.unpack(params)
    assert (P["W2"] == P["W1"].T).all()
    both = untied.layout.pack(P)
    one, other = cost.evaluate(params, X), untied.evaluate(both, X)
    assert one.cost == pytest.approx(other.cost, rel=1e-15)
    G = untied.layout.unpack(other.gradient)
    folded = cost.layout.pack({"W1": G["W1"] + G["W2"].T, "b1": G["b1"], "b2": G["b2"]})
    assert one.gradient == pytest.approx(folded, rel=1e-12)
    A = cost.encode(params, X)
    assert pytest.approx(untied.encode(both, X), rel=1e-15) == A
    assert cost.decode(params, A) == pytest.approx(untied.decode(both, A), rel=1e-15)


@pytest.mark.parametrize("method", ["chunk_sums", "forward", "evaluate"])
@pytest.mark.parametrize("name", ["row", "weight"])
def test_there_is_a_number_for_every_row(method, name):
    cost, params, X = small_problem(corruption=MASKING)
    message = rf"{name}.shape=\(19,\) does not fit 20 rows; pass \(20,\)"
    with pytest.raises(ArgumentError, match=message):
        getattr(cost, method)(params, X, **{name: np.ones(19, int)})


@pytest.mark.parametrize("sparsity_weight", [0.0, 3.0])
def test_no_weight_at_all_is_refused(sparsity_weight):
    cost, params, X = small_problem(sparsity_weight=sparsity_weight)
    with pytest.raises(DataError, match=r"weights of X add up to 0\.0: pass some"):
        cost.evaluate(params, X, weight=np.zeros(len(X)))


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


@TIES
@NOISES
@pytest.mark.parametrize("activation", ["logistic", "tanh"])
def test_the_mean_row_starts_at_the_target(activation, corruption, tied):
    cost = AutoEncoderCost(
        5, 3, activation=activation, sparsity_target=0.05, tied=tied, corruption=corruption
    )
    X = np.random.default_rng(0).uniform(0.2, 0.8, (100, 5))
    params = cost.initial_params(np.random.default_rng(0), moments_of(X))
    f, mean = ACTIVATIONS[activation], X.mean(axis=0, keepdims=True)
    seen = mean * (1 - corruption.amount) if corruption is MASKING else mean
    share = (cost.encode(params, seen) - f.low) / (f.high - f.low)
    assert share == pytest.approx(0.05)
    assert cost.unpack(params)["b2"] == pytest.approx(np.log(mean[0] / (1 - mean[0])))


def test_a_tied_start_serves_either_role():
    X = 40 * np.random.default_rng(0).normal(size=(100, 5))
    moments = moments_of(X)
    tied, untied = (
        cost.unpack(cost.initial_params(np.random.default_rng(0), moments))
        for cost in (AutoEncoderCost(5, 3, tied=True), AutoEncoderCost(5, 3))
    )
    in_between = tied["W1"] / untied["W1"]
    assert in_between == pytest.approx(np.sqrt(3) * moments.standard_deviation)


@TIES
@pytest.mark.parametrize("sparsity_weight", [0.0, 3.0])
@pytest.mark.parametrize("n_features", [5, 3000], ids=["covariance", "variances only"])
def test_preconditioner_is_symmetric_and_positive(n_features, sparsity_weight, tied):
    rng = np.random.default_rng(0)
    X = rng.normal(loc=3, size=(50, n_features))
    cost = AutoEncoderCost(n_features, 2, sparsity_weight=sparsity_weight, tied=tied)
    M = cost.preconditioner(moments_of(X))
    u, v = rng.normal(size=(2, cost.layout.size))
    assert u @ M(v) == pytest.approx(v @ M(u))
    assert u @ M(u) > 0
    assert M.inverse(M(u)) == pytest.approx(u, abs=1e-8 * np.abs(M(u)).max())


@pytest.mark.parametrize("sparsity_weight", [0.0, 3.0])
def test_the_tied_hessian_is_the_sum_of_both(sparsity_weight):
    rng = np.random.default_rng(0)
    moments = moments_of(rng.normal(loc=3, size=(50, 5)))
    cost = AutoEncoderCost(5, 2, sparsity_weight=sparsity_weight, tied=True)
    untied = replace(cost, tied=False)
    v = rng.normal(size=cost.layout.size)
    both = untied.preconditioner(moments).inverse(untied.layout.pack(cost.unpack(v)))
    H = untied.layout.unpack(both)
    folded = cost.layout.pack({"W1": H["W1"] + H["W2"].T, "b1": H["b1"], "b2": H["b2"]})
    assert cost.preconditioner(moments).inverse(v) == pytest.approx(folded, rel=1e-12)


@pytest.mark.parametrize("noise", [MASKING, GAUSSIAN], ids=["masking", "gaussian"])
def test_the_preconditioner_is_that_of_rows_with_noise(noise):
    moments = moments_of(np.random.default_rng(0).normal(loc=3, size=(50, 5)))
    clean = AutoEncoderCost(5, 2)
    v = np.random.default_rng(1).normal(size=clean.layout.size)
    noisy = replace(clean, corruption=noise).preconditioner(moments)
    assert noisy(v) == pytest.approx(clean.preconditioner(noise.moments(moments))(v))


def costs_seen(cost, X, preconditioner, moments):
    seen = []

    def objective(params):
        evaluation = cost.evaluate(params, X)
        seen.append(evaluation.cost)
        return evaluation

    start = cost.initial_params(np.random.default_rng(0), moments)
    minimize(LBFGS(preconditioner=preconditioner), objective, start, max_iter=80, tol=0)
    return np.array(seen)


@NOISES
def test_the_tied_preconditioner_saves_evaluations(camera_patches, corruption):
    cost = AutoEncoderCost(64, 16, sparsity_target=0.1, tied=True, corruption=corruption)
    moments = moments_of(camera_patches)
    plain = costs_seen(cost, camera_patches, None, moments)
    ours = costs_seen(cost, camera_patches, cost.preconditioner(moments), moments)
    assert np.argmax(ours <= plain.min()) < len(plain) / 2
    assert ours.min() < plain.min()


@TIES
def test_preconditioner_of_constant_rows_is_finite(tied):
    X = np.full((4, 3), 0.5)
    cost = AutoEncoderCost(3, 2, tied=tied)
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


@TIES
@NOISES
@FILLS
@WEIGHTS
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_other_array_libraries_know_noise_ties_and_weights(
    tied, corruption, masked, weighted, dtype
):
    masked = masked and dtype != "uint8"
    cost, params, X = large_problem(
        6, 4600, masked, tied=tied, corruption=corruption, activation="tanh", dtype=dtype
    )
    beside = known(len(X), weighted)
    there = array_api_strict.asarray(X, device=array_api_strict.Device("device1"))
    sums = cost.chunk_sums(params, X, **beside)
    assert cost.chunk_sums(params, there, **beside).tobytes() == sums.tobytes()
    here = cost.evaluate(params, X, **beside)
    assert cost.evaluate(params, there, **beside).gradient.tobytes() == here.gradient.tobytes()


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


@NOISES
@WEIGHTS
@pytest.mark.parametrize("fill", [(), (0.4,) * 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_going_on_from_sums_gives_the_same_bits(dtype, fill, corruption, weighted):
    cost = AutoEncoderCost(6, 4, fill=fill, corruption=corruption)
    rng = np.random.default_rng(1)
    params, X = rng.normal(size=cost.layout.size), (9 * rng.random((20_000, 6))).astype(dtype)
    X = with_gaps(X) if fill and X.dtype.kind == "f" else X
    beside, sums, activation, codes = known(len(X), weighted), None, None, []
    portions = [slice(i, i + 2 * MAX_BLOCK_ROWS) for i in range(0, len(X), 2 * MAX_BLOCK_ROWS)]
    of_each = [{k: None if v is None else v[p] for k, v in beside.items()} for p in portions]
    for rows, of_rows in zip(portions, of_each, strict=True):
        sums = cost.chunk_sums(params, X[rows], sums, **of_rows)
    assert sums.tobytes() == cost.chunk_sums(params, X, **beside).tobytes()

    for rows, of_rows in zip(portions, of_each, strict=True):
        kept, activation = cost.forward(params, X[rows], activation, **of_rows)
        codes.append(kept)
    whole, total = cost.forward(params, X, **beside)
    assert activation.tobytes() == total.tobytes()
    assert np.concatenate(codes).tobytes() == whole.tobytes()
    back = partial(cost.backward, params, total / len(X))
    sums = None
    for rows, of_rows, kept in zip(portions, of_each, codes, strict=True):
        sums = back(X[rows], sums, codes=kept, **of_rows)
    assert sums.tobytes() == back(X, codes=whole, **beside).tobytes()
    for rows, of_rows in zip(portions, of_each, strict=True):
        again = cost.forward(params, X[rows], **of_rows)[0]
        assert again.tobytes() == whole[rows].tobytes()


@NOISES
@WEIGHTS
@FILLS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_do_not_depend_on_how_many_blocks_are_stacked(
    dtype, masked, corruption, weighted, monkeypatch
):
    cost, params, X = large_problem(64, 10_000, masked, corruption=corruption, dtype=dtype)
    beside = known(len(X), weighted)
    stacked = cost.chunk_sums(params, X, **beside)
    kept = cost.evaluate(params, X, **beside).gradient
    monkeypatch.setattr(memory, "STACK_BYTES", 1)
    assert memory.blocks_per_stack(64, 5) == 1
    assert cost.chunk_sums(params, X, **beside).tobytes() == stacked.tobytes()
    assert cost.evaluate(params, X, **beside).gradient.tobytes() == kept.tobytes()
