"""Training: one layer after the other on the features of the one below, then all together."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from stackedae.blas import one_blas_thread
from stackedae.containers import Container, n_columns
from stackedae.costs import AutoEncoderCost, DeepCost
from stackedae.costs.network_cost import NetworkCost
from stackedae.errors import DataError
from stackedae.evaluation import Cost
from stackedae.layers import Layer, Stack, parameters_of_all
from stackedae.layout import Array, Vector
from stackedae.memory import is_worth_sampling, sample_share
from stackedae.minimisation import Minimisation, TrainingSettings
from stackedae.moments import Moments, checksum_of_rows, column_sums, first_bad_row, scatter_sums
from stackedae.noise import Corruption
from stackedae.objective import belongs_here
from stackedae.progress import Log, Observer, Progress
from stackedae.rows import Rows, Survey, features_of, held_if_they_fit, labelled, rows_of
from stackedae.shards import Draw, Shards, each_alone
from stackedae.sharing import n_sharing
from stackedae.solvers import Status
from stackedae.targets import Targets

_LOGGER = logging.getLogger("stackedae")


@dataclass(frozen=True)
class LayerSettings:
    """What a user asks of one layer; see `StackedAutoEncoder` for the meaning of each."""

    n_hidden: int
    activation: str
    output_activation: str
    alpha: float
    sparsity_target: float
    sparsity_weight: float
    corruption: Corruption | None = None
    tied: bool = False

    def cost(
        self, n_features: int, output_activation: str, fill: tuple[float, ...] = ()
    ) -> AutoEncoderCost:
        """Return the cost for rows of this many features, with "auto" decided."""
        settings = {name: getattr(self, name) for name in self.__dataclass_fields__}
        settings |= {"output_activation": output_activation, "fill": fill}
        return AutoEncoderCost(n_features=n_features, **settings)


@dataclass(frozen=True)
class StackSettings:
    """What a user asks of all layers together.

    Parameters
    ----------
    layers : sequence of LayerSettings
        From the data up.
    fine_tune : bool
        Whether to train all together in the end.
    alphas : tuple of float
        Weight decay of every matrix where all are trained together; the last is that of a head.
    start : sequence of Layer
        Where layers begin that were trained before.
    """

    layers: Sequence[LayerSettings]
    fine_tune: bool
    alphas: tuple[float, ...]
    start: Sequence[Layer] = ()

    @property
    def tied(self) -> bool:
        """Whether decoders are encoders transposed."""
        return self.layers[0].tied


def train_stack(
    X: Container,
    settings: StackSettings,
    training: TrainingSettings,
    begun: Progress,
    observer: Observer,
    targets: Targets | None = None,
) -> Progress:
    """Train layers from the data up, then a head, then all together, from wherever training stands.

    Parameters
    ----------
    X : container of shape (n_samples, …)
        Samples; see `stackedae.rows` for where they, and the features of each layer, are while they
        are needed.
    settings : StackSettings
        What to train.
    training : TrainingSettings
        How to train each.
    begun : Progress
        What there is already: nothing but a seed, or what `observer` was told before on the same
        data. What follows is the same to the last bit.
    observer : Observer
        Who is told.
    targets : Targets or None
        What a head is to predict; None: there is none.

    Returns
    -------
    Progress
        With all layers.

    Raises
    ------
    DataError
        If X has infinity, or NaN unless that is to be masked.
    """
    # OpenBLAS's threads look out for more work for some 20 ms after each call, on
    # cores that the next evaluation needs; and bits depend on how many there are.
    with ExitStack() as scratch, one_blas_thread():
        run = _Training(settings, training, begun, observer, targets)
        return run(X, scratch)


class _Training:
    """One run of `train_stack`."""

    def __init__(
        self,
        settings: StackSettings,
        training: TrainingSettings,
        begun: Progress,
        observer: Observer,
        targets: Targets | None,
    ) -> None:
        self.settings, self.training, self.targets = settings, training, targets
        self.progress, self.observer = begun, observer
        self.held_out: Shards | None = None
        first = np.random.default_rng(begun.seed)
        n_layers = len(settings.layers)
        self.rngs = [first, *first.spawn(n_layers + 2)]  # layers, head, all together, validation
        self.seeds = [int(rng.integers(2**31)) for rng in self.rngs]

    def __call__(self, X: Container, scratch: ExitStack) -> Progress:
        training, targets, description = self.training, self.targets, dict[str, Any]()
        data = rows_of(
            X,
            self.settings.layers[0].cost(n_columns(X), "identity"),
            training.dtype,
            missing=training.missing,
            beside=self._beside,
            known=0 if targets is None else targets.checksum,
            validation=training.validation,
            seed=self.seeds[-1],
        )
        held_out = data.held_out
        if held_out is not None:
            description["validation"] = checksum_of_good(held_out.shards, data)
        if targets is not None:
            description["targets"] = targets.checksum
        survey, log = self._look_at(data, held_out, 0)
        if held_out is not None:
            log.visits.reads_held_out += 0 if held_out.shards.held else 2
        description |= {**data.shards.description, **survey.checksums()}
        log.visits.reads += not survey.sample.held
        self.observer.on_data(description)
        log.progress = self.progress = replace(self.progress, data=description)
        self._train_layers(data, held_out, survey, log, scratch)
        data = replace(data, bytes_to_hold=log.bytes_read)  # none, unless no layer was left
        held_out = None if held_out is None else replace(held_out, bytes_to_hold=0)
        if targets is not None:
            cost_of_all = self._network()
            if held_out is not None:
                held_out = labelled(held_out, cost_of_all)
                held_out = held_out if held_out.shards.n_rows else None
            data = labelled(data, cost_of_all)
            data, held_out = self._train_head(data, held_out, targets)
        if self.settings.fine_tune:
            self._tune(data, held_out)
        return self.progress

    def _beside(self, shards: Shards) -> Shards:
        """Put beside rows what training has to know of them."""
        # Who share reads all number their rows, so that these are the same.
        if any(layer.corruption for layer in self.settings.layers) or n_sharing() > 1:
            shards = shards.numbered()
        return shards if self.targets is None else self.targets.beside(shards)

    def _look_at(self, rows: Rows, held_out: Rows | None, index: int) -> tuple[Survey, Log]:
        """Look at the rows of a layer, all of them."""
        _LOGGER.info("layer %d: %s", index, rows.reason)
        log = Log(self.progress, rows, self.observer.on_step, held_out)
        log.visits.reads += not rows.shards.held
        survey = rows.survey(self.seeds[index])
        if survey.n_bad:
            rows.refuse()
        return survey, log

    def _train_layers(
        self,
        data: Rows,
        held_out: Rows | None,
        survey: Survey,
        log: Log,
        scratch: ExitStack,
    ) -> None:
        """Train every layer on the features of the one below, until there is none left to train."""
        layers, rows, held_besides = self.settings.layers, data, 0
        needed_again = self.settings.fine_tune or self.targets is not None
        for index, settings in enumerate(layers):
            if len(self.progress.layers) == len(layers):
                return
            if index:
                below = self.progress.layers[index - 1]
                rows = features_of(
                    rows,
                    below,
                    settings.cost(below.cost.n_hidden, "identity"),
                    self.training.n_evaluations,
                    scratch,
                    held_besides=held_besides,
                )
                if held_out is not None:
                    held_out = features_held_out(held_out, Stack([below]), rows.cost)
                if needed_again and data.shards.held:
                    held_besides = data.shards.n_bytes
            if index == len(self.progress.layers):
                if index:
                    survey, log = self._look_at(rows, held_out, index)
                self._train_layer(index, rows, held_out, survey, log)

    def _train_layer(
        self, index: int, rows: Rows, held_out: Rows | None, survey: Survey, log: Log
    ) -> None:
        settings, before = self.settings.layers[index], self.settings.start[index : index + 1]
        output_activation = settings.output_activation
        if output_activation == "auto":
            output_activation = "identity" if survey.n_outside else "logistic"
        if settings.corruption is not None:
            noise = replace(settings.corruption, seed=self.seeds[index], phase=index)
            settings = replace(settings, corruption=noise)
        cost = settings.cost(rows.shards.n_features, output_activation, survey.fill)
        moments = moments_of(survey.sample, survey.fill)
        log.visits.reads += 0 if survey.sample.held else 2  # for the mean, and around it
        start, near = cost.initial_params(self.rngs[index], moments), False
        if before and before[0].cost.layout == cost.layout:
            start, near = before[0].params.astype(np.float64), True
        parts = rows.shards, survey.sample, held_out
        self._minimise(cost, parts, moments, start, index, log, near=near)

    def _train_head(
        self, data: Rows, held_out: Rows | None, targets: Targets
    ) -> tuple[Rows, Rows | None]:
        """Train what predicts, on the features of the last layer; return rows with reads told."""
        index, stack = len(self.settings.layers), Stack(self.progress.layers)
        if self.progress.head is not None:
            return data, held_out
        cost = targets.cost((self.settings.layers[-1].n_hidden,), alpha=self.settings.alphas[-1])
        rows = held_if_they_fit(replace(data, shards=encoded(data.shards, stack)), cost)
        features = None if held_out is None else features_held_out(held_out, stack, cost)
        log = Log(self.progress, rows, self.observer.on_step, features)
        log.bytes_read += data.bytes_to_hold
        data = replace(data, bytes_to_hold=0)
        if held_out is not None:
            log.bytes_read += held_out.bytes_to_hold
            held_out = replace(held_out, bytes_to_hold=0)
        sample = self._sample(rows, cost, index, log)
        parts, moments = (rows.shards, sample, features), [moments_of(sample)]
        self._minimise(cost, parts, moments, cost.layout.zeros(), index, log)
        return data, held_out

    def _tune(self, data: Rows, held_out: Rows | None) -> None:
        """Train all together, from where each has come."""
        if self.progress.tuned is not None:
            return
        index, layers, cost = self.progress.done, self.progress.layers, self._network()
        log = Log(self.progress, data, self.observer.on_step, held_out)
        sample = self._sample(data, cost, index, log)
        moments = moments_within(sample, cost, layers)
        start = parameters_of_all(cost, layers, self.progress.head)
        parts = data.shards, sample, held_out
        self._minimise(cost, parts, moments, start, index, log, near=True)

    def _network(self) -> NetworkCost:
        """Return the cost of all layers together, with a head if there are targets."""
        layers = self.progress.layers
        sizes = (layers[0].cost.n_features, *(layer.cost.n_hidden for layer in layers))
        common: dict[str, Any] = {
            "activation": tuple(layer.cost.activation for layer in layers),
            "alpha": self.settings.alphas,
            "fill": layers[0].cost.fill,
        }
        noise = self.settings.layers[0].corruption
        if noise is not None:
            index = len(layers) + 1
            common["corruption"] = replace(noise, seed=self.seeds[index], phase=index)
        if self.targets is not None:
            return self.targets.cost(sizes, **common)
        outputs = tuple(layer.cost.output_activation for layer in layers)
        return DeepCost(sizes, output_activation=outputs, tied=self.settings.tied, **common)

    def _sample(self, rows: Rows, cost: Cost, index: int, log: Log) -> Shards:
        """Return some of the rows, or all if they are few."""
        shards = rows.shards
        if not is_worth_sampling(shards.n_rows):
            return shards
        log.visits.reads += not shards.held
        share = sample_share(shards.n_bytes)
        here = belongs_here(cost, shards, share)
        return shards.draw(Draw(0.0, share, self.seeds[index]), here=here)

    def _minimise(
        self,
        cost: AutoEncoderCost | NetworkCost,
        parts: tuple[Shards, Shards, Rows | None],
        moments: Any,
        start: Vector,
        index: int,
        log: Log,
        *,
        near: bool = False,
    ) -> None:
        """Minimise a cost, from where the progress in `log` stands, and keep what was learned.

        `parts` are the rows to minimise it over, a sample of them, and those that are held out;
        `moments` those of the rows, or of what goes into each layer.
        """
        shards, sample, held_out = parts
        training, seed = self.training, self.seeds[index]
        minimisation = Minimisation(
            cost,
            shards,
            sample,
            cost.preconditioner(moments),
            start,
            training,
            seed,
            log.visits,
            near,
            cost.coordinates(moments) if training.solver == "adam" else None,
            None if held_out is None else held_out.shards,
        )
        at = log.progress.position or minimisation.first()
        state = minimisation.run(at, partial(log.on_step, cost))
        if state.evaluation is None or not state.evaluation.is_finite:
            raise DataError(f"The cost at the start is not finite: {Status.NOT_FINITE.advice}.")
        self.progress = log.progress.finished(training.dtype)
        self.observer.on_layer(self.progress)


def encoded(shards: Shards, stack: Stack) -> Shards:
    """Return the features of rows, to be computed."""
    n_features = stack.layers[-1].cost.n_hidden
    name, dtype = "stackedae-encode", stack.dtype
    return shards.map(Stack.encode, stack, n_features=n_features, dtype=dtype, name=name)


def features_held_out(held_out: Rows, stack: Stack, cost: Cost) -> Rows:
    """Return features of rows to stop by: held by the client, if it is to work on them."""
    shards = encoded(held_out.shards, stack)
    return held_out.made_to(shards.hold(here=True) if belongs_here(cost, shards) else shards, cost)


def moments_of(sample: Shards, fill: tuple[float, ...] = ()) -> Moments:
    """Return the mean and covariance of rows, with what stands in for entries that are missing."""
    summing, scattering = (partial(each, fill=fill) for each in (column_sums, scatter_sums))
    total = sample.total_weight
    mean = sample.sum(each_alone(summing), name="stackedae-mean") / total
    scatter = sample.sum(each_alone(scattering), mean, name="stackedae-covariance")
    return Moments.from_sums(mean, scatter, total)


def checksum_of_good(held_out: Shards, rows: Rows) -> int:
    """Return a checksum of rows that are held out, unless there is one to be refused."""
    bad = held_out.gather(partial(first_bad_row, missing=rows.missing), name="stackedae-check")
    if max(bad) >= 0:
        rows.refuse()
    each = held_out.gather(checksum_of_rows, name="stackedae-checksum")
    return zlib.crc32(repr(each).encode())


def moments_within(sample: Shards, cost: NetworkCost, layers: Sequence[Layer]) -> list[Moments]:
    """Return the moments of what goes into each layer of a network, up and, without a head, down.

    Parameters
    ----------
    sample : Shards
        Rows.
    cost : DeepCost, ClassifierCost or RegressorCost
        Of the network.
    layers : sequence of Layer
        What it begins with.
    """
    whole, dtype = Stack(layers), Stack(layers).dtype
    up: list[Any] = [Stack(layers[:n]).encode for n in range(1, len(layers) + 1)]
    down: list[Any] = []
    if isinstance(cost, DeepCost):
        down = [
            partial(_back_down, whole, Stack(layers[n:])) for n in range(len(layers) - 1, 0, -1)
        ]
    widths = [layer.cost.n_hidden for layer in layers]
    widths += [layer.cost.n_features for layer in reversed(layers[1:])]
    inputs = [
        sample.map(function, n_features=width, dtype=dtype, name="stackedae-encode")
        for function, width in zip((*up, *down), widths, strict=False)
    ]
    return [moments_of(sample, cost.fill), *map(moments_of, inputs)]


def _back_down(whole: Stack, upper: Stack, X: Array) -> Array:
    """Return what the upper layers reconstruct of the input of the lowest of them."""
    return upper.decode(whole.encode(X))
