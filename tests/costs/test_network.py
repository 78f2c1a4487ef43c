"""What all costs of whole networks have in common."""

import gc
import weakref
from dataclasses import replace
from itertools import product

import array_api_strict
import numpy as np
import pytest
from scipy.special import logsumexp

from stackedae import memory
from stackedae.costs import ACTIVATIONS, ClassifierCost, DeepCost, RegressorCost
from stackedae.errors import ArgumentError, DataError
from stackedae.memory import MAX_BLOCK_ROWS
from stackedae.noise import Corruption

FUNCTIONS = {
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "identity": lambda z: z,
}
KINDS = ("deep", "tied", "classifier", "regressor")
NOISE = Corruption("masking", 0.3, seed=5)


def cost_of(kind, sizes=(5, 4, 3), **settings):
    settings = {"alpha": 0.01, **settings}
    if kind == "classifier":
        return ClassifierCost(sizes, 3, **settings)
    if kind == "regressor":
        return RegressorCost(sizes, 2, **settings)
    return DeepCost(sizes, tied=kind == "tied", **settings)


def rows_for(cost, n_rows, *, gaps=False, weighted=False, dtype="float64", seed=1):
    """Draw rows, and what has to be known of them."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(0.1, 0.9, (n_rows, cost.n_features)).astype(dtype)
    if gaps:
        X[rng.random(X.shape) < 0.2] = np.nan
    known = {"row": rng.permutation(10 * n_rows)[:n_rows]} if cost.corruption else {}
    if isinstance(cost, ClassifierCost):
        known["y"] = rng.integers(0, cost.n_classes, n_rows)
    if isinstance(cost, RegressorCost):
        known["y"] = rng.normal(size=(n_rows, cost.n_outputs))
    if weighted:
        known["weight"] = rng.uniform(0.1, 3.0, n_rows)
    assert set(cost.aside) == set(known) - {"weight"}
    return X, known


def params_for(cost, scale=0.7):
    return np.random.default_rng(0).normal(scale=scale, size=cost.layout.size)


def evaluate(cost, params, X, **known):
    return cost.finish(params, cost.chunk_sums(params, X, **known))


def each(names, n_layers):
    return (names,) * n_layers if isinstance(names, str) else names


def reference(cost, params, X, *, y=None, weight=None, row=None):
    """Write the definition down: J and its terms."""
    P, k = cost.layout.unpack(params), len(cost.layer_sizes) - 1
    present = ~np.isnan(X)
    x = np.where(present, X, cost.fill) if cost.fill else X
    h = cost.corruption.apply(x, row) if cost.corruption else x
    matrices, hidden = [], []
    for layer, f in enumerate(each(cost.activation, k), start=1):
        matrices.append(P[f"W{layer}"])
        h = FUNCTIONS[f](h @ matrices[-1].T + P[f"b{layer}"])
        hidden.append(h)
    if isinstance(cost, DeepCost):
        g = each(cost.output_activation, k)
        for number in range(1, k + 1):
            V = P[f"W{k + 1 - number}"].T if cost.tied else P[f"V{number}"]
            h = FUNCTIONS[g[k - number]](h @ V.T + P[f"c{number}"])
            matrices.append(V)
        losses = 0.5 * (present * (h - x) ** 2).sum(axis=1)
    else:
        matrices.append(P["S"])
        z = h @ P["S"].T + P["s"]
        if isinstance(cost, ClassifierCost):
            losses = logsumexp(z, axis=1) - z[np.arange(len(z)), y]
        else:
            losses = 0.5 * ((z - y.reshape(len(z), -1)) ** 2).sum(axis=1)
    alphas = cost.alpha if isinstance(cost.alpha, tuple) else (cost.alpha,) * len(matrices)
    decay = sum(a / 2 * (W**2).sum() for a, W in zip(alphas, matrices, strict=True))
    return {
        "cost": np.average(losses, weights=weight) + decay,
        "decay": decay,
        "activations": np.average(np.hstack(hidden), axis=0, weights=weight) if hidden else [],
    }


def slopes_of(function, params, step=1e-5):
    return np.array(
        [
            (function(params + step * e) - function(params - step * e)) / (2 * step)
            for e in np.eye(params.size)
        ]
    )


@pytest.mark.parametrize(
    ("gaps", "corruption", "weighted", "activation"),
    [
        *((*how, "logistic") for how in product((False, True), (None, NOISE), (False, True))),
        *((True, NOISE, True, f) for f in ACTIVATIONS if f != "logistic"),
        (True, Corruption("gaussian", 0.2), True, ("tanh", "logistic")),
        (False, None, False, ("relu", "identity")),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_cost_is_the_definition_and_gradient_its_slope(
    kind, gaps, corruption, weighted, activation
):
    fill = (0.3, -0.2, 0.0, 0.9, 0.5) if gaps else ()
    cost = cost_of(kind, activation=activation, corruption=corruption, fill=fill)
    if isinstance(cost, DeepCost):
        cost = replace(cost, output_activation=activation)
    X, known = rows_for(cost, 15, gaps=gaps, weighted=weighted)
    params = params_for(cost)
    evaluation = evaluate(cost, params, X, **known)
    expected = reference(cost, params, X, **known)
    assert evaluation.cost == pytest.approx(expected["cost"], rel=1e-13)
    assert evaluation.terms["decay"] == pytest.approx(expected["decay"], rel=1e-13)
    assert evaluation.means["activations"] == pytest.approx(expected["activations"], rel=1e-13)
    assert evaluation.n_rows == 15
    slopes = slopes_of(lambda p: reference(cost, p, X, **known)["cost"], params)
    assert np.linalg.norm(evaluation.gradient - slopes) < 1e-7 * np.linalg.norm(slopes)


@pytest.mark.parametrize("kind", KINDS)
def test_each_matrix_may_have_a_decay_of_its_own(kind):
    n_matrices = 4 if kind in ("deep", "tied") else 3
    cost = cost_of(kind, alpha=(0.0, 0.3, 1e-3, 0.2)[:n_matrices])
    X, known = rows_for(cost, 15)
    params = params_for(cost)
    evaluation = evaluate(cost, params, X, **known)
    expected = reference(cost, params, X, **known)
    assert evaluation.cost == pytest.approx(expected["cost"], rel=1e-13)
    assert evaluation.terms["decay"] == pytest.approx(expected["decay"], rel=1e-13)
    slopes = slopes_of(lambda p: reference(cost, p, X, **known)["cost"], params)
    assert np.linalg.norm(evaluation.gradient - slopes) < 1e-7 * np.linalg.norm(slopes)


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_no_hidden_layer_will_do(kind):
    cost = cost_of(kind, sizes=(5,))
    X, known = rows_for(cost, 15, weighted=True)
    params = params_for(cost)
    evaluation = evaluate(cost, params, X, **known)
    assert evaluation.cost == pytest.approx(reference(cost, params, X, **known)["cost"], rel=1e-13)
    slopes = slopes_of(lambda p: reference(cost, p, X, **known)["cost"], params)
    assert evaluation.gradient == pytest.approx(slopes, abs=1e-8)
    assert evaluation.means["activations"].shape == (0,)
    assert cost.n_hidden == 0


def everything(kind, n_rows, dtype="float64", sizes=(6, 5, 4)):
    """Gaps, noise and weights at once."""
    gaps = np.dtype(dtype).kind == "f"
    cost = cost_of(kind, sizes, corruption=NOISE, fill=(0.4,) * sizes[0], activation="tanh")
    X, known = rows_for(cost, n_rows, gaps=gaps, weighted=True, dtype=dtype)
    return cost, params_for(cost), X, known


def some(known, rows):
    return {name: values[rows] for name, values in known.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_chunks_add_up(kind):
    cost, params, X, known = everything(kind, 6000)
    sums = sum(
        cost.chunk_sums(params, X[rows], **some(known, rows))
        for rows in (slice(0, 0), slice(0, 1), slice(1, 1500), slice(1500, 5000), slice(5000, None))
    )
    assert sums == pytest.approx(cost.chunk_sums(params, X, **known), rel=1e-9, abs=1e-9)
    S = cost.sums_layout.unpack(sums)
    assert list(S)[:2] == ["n_rows", "weight"]
    assert S["n_rows"] == 6000
    assert S["weight"] == pytest.approx(known["weight"].sum(), rel=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_is_so_many_rows(kind):
    cost, params, X, known = everything(kind, 50)
    weight = np.random.default_rng(2).integers(0, 4, 50)
    weighted = evaluate(cost, params, X, **{**known, "weight": weight})
    repeated = np.repeat(np.arange(50), weight)
    del known["weight"]
    plain = evaluate(cost, params, X[repeated], **some(known, repeated))
    assert weighted.cost == pytest.approx(plain.cost, rel=1e-13)
    assert weighted.gradient == pytest.approx(plain.gradient, abs=1e-14)
    assert weighted.means["activations"] == pytest.approx(plain.means["activations"], rel=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_one_are_none(kind):
    cost, params, X, known = everything(kind, 700, dtype="float32")
    ones = {**known, "weight": np.ones(700)}
    del known["weight"]
    sums = cost.chunk_sums(params, X, **known)
    assert cost.chunk_sums(params, X, **ones).tobytes() == sums.tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_array_libraries_do_the_work_where_the_rows_are(kind, dtype):
    # array-api-strict refuses what the standard does not promise, and a stray
    # np.asarray of what is on its second device.
    cost, params, X, known = everything(kind, 5000, dtype)
    there = array_api_strict.asarray(X, device=array_api_strict.Device("device1"))
    here = cost.chunk_sums(params, X, **known)
    assert cost.chunk_sums(params, there, **known).tobytes() == here.tobytes()
    started = cost.chunk_sums(params, there, **known, out=here.copy())
    assert started == pytest.approx(2 * here, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_close_to_double(kind):
    cost, params, X, known = everything(kind, 3000)
    double = evaluate(cost, params, X.astype("float32").astype("float64"), **known)
    single = evaluate(cost, params, X.astype("float32"), **known)
    assert single.cost == pytest.approx(double.cost, rel=1e-6)
    largest = np.abs(double.gradient).max()
    assert single.gradient == pytest.approx(double.gradient, abs=1e-5 * largest)
    sent = cost.chunk_sums(params.astype("float32"), X.astype("float32"), **known)
    assert cost.finish(params, sent).cost == single.cost


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, bool])
@pytest.mark.parametrize("kind", KINDS)
def test_any_real_dtype_is_worked_with(kind, dtype):
    cost = cost_of(kind)
    X, known = rows_for(cost, 20)
    X, params = (X > 0.5).astype(dtype), params_for(cost)
    expected = evaluate(cost, params, X.astype(np.float64), **known)
    assert evaluate(cost, params, X, **known).cost == pytest.approx(expected.cost, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_sums_gives_the_same_bits(kind, dtype):
    cost, params, X, known = everything(kind, 2 * MAX_BLOCK_ROWS + 777, dtype)
    whole, kernel, sums = cost.chunk_sums(params, X, **known), cost.kernel(params, X), None
    for start in range(0, len(X), MAX_BLOCK_ROWS):
        rows = slice(start, start + MAX_BLOCK_ROWS)
        sums = kernel.chunk_sums(X[rows], sums, **some(known, rows))
    assert sums.tobytes() == whole.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_do_not_depend_on_how_many_blocks_are_stacked(kind, dtype, monkeypatch):
    cost, params, X, known = everything(kind, 4000, dtype, sizes=(16, 64, 7))
    stacked = cost.chunk_sums(params, X, **known)
    monkeypatch.setattr(memory, "STACK_BYTES", 1)
    assert memory.blocks_per_stack(64, 64) == 1
    assert cost.chunk_sums(params, X, **known).tobytes() == stacked.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_missing_the_bits_are_those_of_the_plain_cost(kind):
    plain = cost_of(kind)
    X, known = rows_for(plain, 700, dtype="float32")
    filling, params = replace(plain, fill=(0.5, 3.0, -1.0, 0.0, 7.0)), params_for(plain)
    sums = plain.chunk_sums(params, X, **known)
    assert filling.chunk_sums(params, X, **known).tobytes() == sums.tobytes()
    assert filling.encode(params, X).tobytes() == plain.encode(params, X).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_what_is_known_of_them_stay_as_they_are(kind):
    cost, params, X, known = everything(kind, 700)
    before = [values.copy() for values in (params, X, *known.values())]
    cost.chunk_sums(params, X, **known)
    for old, values in zip(before, (params, X, *known.values()), strict=True):
        assert np.array_equal(old, values, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_goes_with_its_last_reference(kind):
    cost, params, X, known = everything(kind, 700)
    kernel = cost.kernel(params, X)
    kernel.chunk_sums(X, **known)
    gone = weakref.ref(kernel)
    gc.disable()
    try:
        del kernel
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_start_within_bounds_and_differ(kind):
    cost = cost_of(kind, sizes=(30, 20, 10))
    P = cost.layout.unpack(cost.initial_params(np.random.default_rng(0)))
    for values in P.values():
        if values.ndim == 1:
            assert (values == 0).all()
        else:
            bound = np.sqrt(6 / (sum(values.shape) + 1))
            assert 0.8 * bound < np.abs(values).max() <= bound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": ()}, r"layer_sizes=\(\) is no network; pass the number of features and"),
        ({"sizes": (5, 0)}, r"layer_sizes=\(5, 0\) is no network"),
        ({"activation": "sine"}, "activation='sine' is unknown; choose from logistic, tanh"),
        ({"activation": ("tanh", "sine")}, "activation='sine' is unknown"),
        ({"activation": ("tanh",)}, r"activation=\('tanh',\) has 1 names for 2 layers; pass one"),
        ({"alpha": -1.0}, "alpha=-1.0 is not a finite weight; pass 0 or more"),
        ({"alpha": np.nan}, "alpha=nan is not a finite weight"),
        ({"alpha": (1.0, 2.0)}, r"alpha=\(1\.0, 2\.0\) has 2 values for [34] matrices; pass one"),
        ({"fill": (1.0, 2.0)}, r"fill=\(1\.0, 2\.0\) has 2 values for 5 features; pass one"),
        ({"fill": (0.0, np.inf, 0.0, 1.0, 0.0)}, "fill=.* is not finite everywhere"),
    ],
)
def test_hyper_parameters_are_checked(kind, settings, message):
    with pytest.raises(ArgumentError, match=message):
        cost_of(kind, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_another_size_are_refused(kind):
    cost, params, X, known = everything(kind, 3)
    with pytest.raises(ArgumentError, match=r"X.shape=\(3, 5\) .* pass \(n_rows, 6\)"):
        cost.chunk_sums(params, X[:, :5], **known)


@pytest.mark.parametrize(
    ("kind", "name"),
    [*product(KINDS, ("weight", "row")), ("classifier", "y"), ("regressor", "y")],
)
def test_what_is_not_known_of_each_row_is_refused(kind, name):
    cost, params, X, known = everything(kind, 8)
    with pytest.raises(ArgumentError, match=rf"{name}.shape=\(7.*does not fit 8 rows; pass one"):
        cost.chunk_sums(params, X, **{**known, name: known[name][:7]})
    if name in cost.aside:
        with pytest.raises(ArgumentError, match=f"{name}=None is needed by this cost; pass one"):
            cost.kernel(params, X).chunk_sums(X, **{**known, name: None})


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_and_no_weight_are_refused(kind):
    cost, params, X, known = everything(kind, 4)
    with pytest.raises(DataError, match="no rows"):
        evaluate(cost, params, X[:0], **some(known, slice(0)))
    with pytest.raises(DataError, match="All rows have the weight 0; pass a weight above 0"):
        evaluate(cost, params, X, **{**known, "weight": np.zeros(4)})


@pytest.mark.parametrize("kind", KINDS)
def test_moments_of_another_number_are_refused(kind):
    with pytest.raises(ArgumentError, match=r"moments='those of 0 inputs' do not fit . layers"):
        cost_of(kind).preconditioner([])
