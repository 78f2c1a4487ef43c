"""What was learned, as models of other libraries: ONNX graphs and PyTorch modules."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from sklearn.utils.validation import check_is_fitted

from stackedae._version import __version__
from stackedae.errors import ArgumentError, MissingExtraError
from stackedae.layers import Head, Layer
from stackedae.layout import Array
from stackedae.stores import refuse_existing_file, write_file

if TYPE_CHECKING:
    import onnx
    import torch

OPSET, IR_VERSION = 17, 8
"""Of ONNX 1.12 (2022): all that is needed, and known to what runs graphs since then."""


class FittedLayers(Protocol):
    """A fitted estimator of layers, perhaps with a `Head` on them under the name `head_`."""

    @property
    def layers_(self) -> Sequence[Layer]:
        """Layers, from the data up."""


class Step(NamedTuple):
    """An affine map of rows, x → Wx + b, and a function of what comes out.

    Parameters
    ----------
    W : ndarray of shape (n_outputs, n_inputs)
        Weights.
    b : ndarray of shape (n_outputs,)
        Biases.
    activation : {"logistic", "tanh", "relu", "identity", "softmax"}
        The function, of each entry; "softmax" is one of the row.
    """

    W: Array
    b: Array
    activation: str


def chain_of(model: FittedLayers, output: str) -> list[Step]:
    """Return what rows without missing entries go through, step by step.

    Parameters
    ----------
    model : StackedAutoEncoder
        Fitted; or any estimator with `layers_`, and perhaps a `head_`.
    output : {"features", "reconstruction", "prediction"}
        Where they are to arrive: the last layer; back at the data; or beyond the head, if there is
        one.

    Returns
    -------
    list of Step
        In the precision of the model.

    Raises
    ------
    ArgumentError
        If `output` is none of these.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import StackedAutoEncoder
    >>> from stackedae.exporting import chain_of
    >>> X = np.random.default_rng(0).random((50, 6))
    >>> sae = StackedAutoEncoder((4, 2), max_iter=2, tol=0, random_state=0).fit(X)
    >>> [(step.W.shape, step.activation) for step in chain_of(sae, "reconstruction")]
    [((4, 6), 'logistic'), ((2, 4), 'logistic'), ((4, 2), 'logistic'), ((6, 4), 'logistic')]
    """
    head: Head | None = getattr(model, "head_", None)
    up = [Step(layer.W1, layer.b1, layer.cost.activation) for layer in model.layers_]
    down = [Step(layer.W2, layer.b2, layer.cost.output_activation) for layer in model.layers_]
    if head is None:
        chains = {"features": up, "reconstruction": up + down[::-1]}
    else:  # decoders are as they were before the layers were trained together
        chains = {"prediction": [*up, Step(head.S, head.s, head.activation)], "features": up}
    if output not in chains:
        raise ArgumentError(
            "output", output, "is nothing that this model has", f"choose from {', '.join(chains)}"
        )
    return chains[output]


def to_onnx(
    model: FittedLayers,
    path: str | Path | None = None,
    *,
    output: str | None = None,
    overwrite: bool = False,
) -> onnx.ModelProto:
    """Return a fitted model as an ONNX graph.

    The graph has one input, ``X`` of shape (n_samples, n_features) in the precision of the model:
    samples as `fit` saw them, their trailing dimensions flattened, row-major, so that
    ``X.reshape(len(X), -1)`` makes it of patches. The number of samples is open. Where the model
    has `fill_values_`, the graph fills NaN, too.

    Parameters
    ----------
    model : StackedAutoEncoder
        Fitted.
    path : str, Path or None
        File to write as well.
    output : {"features", "reconstruction", "prediction"} or None
        What the graph computes, and how its output is called: the features of the last layer, as
        `transform` does; samples after a pass up and down, as `reconstruct` does; or, of a model
        with a head, what it predicts (probabilities of classes). None: what it predicts, else
        features.
    overwrite : bool
        Whether to replace a file that exists.

    Returns
    -------
    onnx.ModelProto
        Of opset 17.

    Raises
    ------
    MissingExtraError
        If the package onnx is not installed (extra "onnx").
    StoreExistsError
        If the file exists and `overwrite` is not set.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import StackedAutoEncoder
    >>> from stackedae.exporting import to_onnx
    >>> X = np.random.default_rng(0).random((50, 6))
    >>> sae = StackedAutoEncoder(4, max_iter=2, tol=0, random_state=0).fit(X)
    >>> [node.op_type for node in to_onnx(sae).graph.node]  # doctest: +SKIP
    ['Gemm', 'Sigmoid']
    """
    check_is_fitted(model)
    output = output or _usual_output(model)
    steps = chain_of(model, output)
    _refuse_without("onnx")
    from onnx import checker, helper

    if path is not None:
        refuse_existing_file(path, overwrite=overwrite)
    graph = helper.make_graph(
        *_onnx_nodes(steps, _fill_of(model), output),
        doc_string=_description(model, output),
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="stackedae",
        producer_version=__version__,
        doc_string=graph.doc_string,
    )
    checker.check_model(made, full_check=True)
    if path is not None:
        write_file(path, made.SerializeToString(), overwrite=overwrite)
    return made


def to_torch(model: FittedLayers, *, output: str | None = None) -> torch.nn.Sequential:
    """Return a fitted model as a PyTorch module.

    It takes tensors of shape (n_samples, n_features) in the precision of the model: samples as
    `fit` saw them, their trailing dimensions flattened, row-major. Where the model has
    `fill_values_`, a first module fills NaN with them. Weights are copies that can be trained on.

    Parameters
    ----------
    model : StackedAutoEncoder
        Fitted.
    output : {"features", "reconstruction", "prediction"} or None
        What the module computes, as for `to_onnx`.

    Returns
    -------
    torch.nn.Sequential
        Of modules that PyTorch brings along: what ``torch.save`` writes of it is read without
        stackedae.

    Raises
    ------
    MissingExtraError
        If PyTorch is not installed (extra "torch").

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import StackedAutoEncoder
    >>> from stackedae.exporting import to_torch
    >>> X = np.random.default_rng(0).random((50, 6))
    >>> sae = StackedAutoEncoder(4, max_iter=2, tol=0, random_state=0).fit(X)
    >>> to_torch(sae)  # doctest: +SKIP
    Sequential(
      (0): Linear(in_features=6, out_features=4, bias=True)
      (1): Sigmoid()
    )
    """
    check_is_fitted(model)
    steps, fill = chain_of(model, output or _usual_output(model)), _fill_of(model)
    _refuse_without("torch")
    import torch

    modules = [] if fill is None else [_torch_filling(torch.tensor(fill))]
    for step in steps:
        modules += _torch_modules(step)
    return torch.nn.Sequential(*modules)


def _dtype_of(model: FittedLayers) -> np.dtype[Any]:
    return np.dtype(model.layers_[0].params.dtype)


def _fill_of(model: FittedLayers) -> Array | None:
    """Return what stands in for missing entries, in the precision of the model."""
    fill = model.layers_[0].cost.fill
    return np.array(fill, _dtype_of(model)) if fill else None


def _usual_output(model: FittedLayers) -> str:
    return "features" if getattr(model, "head_", None) is None else "prediction"


def _description(model: FittedLayers, output: str) -> str:
    shape = getattr(model, "sample_shape_", (model.layers_[0].cost.n_features,))
    return (
        f"The {output} of samples of shape {shape}, flattened row-major, by a stack of "
        "auto-encoders that stackedae trained."
    )


def _refuse_without(package: str) -> None:
    """Raise a `MissingExtraError` if a package is not there, which has an extra of its name."""
    if find_spec(package) is None:
        raise MissingExtraError(
            f"models for {package} need it; install it, or pip install 'stackedae[{package}]'."
        )


_IN_ONNX = {"logistic": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "softmax": "Softmax"}
"""Operators; "identity" needs none."""


def _onnx_nodes(steps: Sequence[Step], fill: Array | None, output: str) -> tuple[Any, ...]:
    """Return the nodes of a graph, its name, inputs, outputs and arrays."""
    from onnx import helper, numpy_helper

    arrays: dict[str, Array] = {}
    nodes, last = [], "X"
    if fill is not None:
        arrays["fill"], last = fill, "filled"
        nodes.append(helper.make_node("IsNaN", ["X"], ["missing"]))
        nodes.append(helper.make_node("Where", ["missing", "fill", "X"], [last]))
    for i, (W, b, activation) in enumerate(steps):
        arrays[f"W{i}"], arrays[f"b{i}"] = W, b
        nodes.append(helper.make_node("Gemm", [last, f"W{i}", f"b{i}"], [f"z{i}"], transB=1))
        last = f"z{i}"
        if activation != "identity":
            nodes.append(helper.make_node(_IN_ONNX[activation], [last], [f"a{i}"]))
            last = f"a{i}"
    nodes[-1].output[0] = output

    kind = helper.np_dtype_to_tensor_dtype(steps[0].W.dtype)
    rows, results = (
        helper.make_tensor_value_info(name, kind, ["n_samples", size])
        for name, size in (("X", steps[0].W.shape[1]), (output, len(steps[-1].b)))
    )
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return nodes, f"stackedae-{output}", [rows], [results], tensors


def _torch_modules(step: Step) -> list[torch.nn.Module]:
    import torch

    W, b = torch.tensor(step.W), torch.tensor(step.b)
    n_outputs, n_inputs = W.shape
    # Weights that were drawn first would take from the random numbers of others.
    linear = torch.nn.utils.skip_init(torch.nn.Linear, n_inputs, n_outputs, dtype=W.dtype)
    linear.load_state_dict({"weight": W, "bias": b})
    activations: dict[str, list[torch.nn.Module]] = {
        "logistic": [torch.nn.Sigmoid()],
        "tanh": [torch.nn.Tanh()],
        "relu": [torch.nn.ReLU()],
        "identity": [],
        "softmax": [torch.nn.Softmax(dim=1)],
    }
    return [linear, *activations[step.activation]]


def _torch_filling(fill: torch.Tensor) -> torch.nn.Module:
    """Return a module that fills NaN; a graph, not a class of ours, which others would need."""
    import torch

    root = torch.nn.Module()
    root.register_buffer("fill", fill)
    graph = torch.fx.Graph(root)
    rows = graph.placeholder("X")
    missing = graph.call_function(torch.isnan, (rows,))
    filled = graph.call_function(torch.where, (missing, graph.get_attr("fill"), rows))
    graph.output(filled)
    return torch.fx.GraphModule(root, graph)
