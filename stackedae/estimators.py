"""Features without labels: the estimator that users see first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from stackedae.base import BaseStack
from stackedae.containers import Container
from stackedae.errors import DataError
from stackedae.fitting import this_run
from stackedae.progress import Progress, Record
from stackedae.report import Report, make_report
from stackedae.samples import check_samples, named_dims
from stackedae.stores import StoreLike
from stackedae.streams import Stream, portions_of


def _takes_streams(model: StackedAutoEncoder) -> bool:
    if model.solver != "adam":
        raise AttributeError(
            f'partial_fit needs solver="adam", and it is {model.solver!r}, for which all samples '
            "have to be at hand."
        )
    return True


class StackedAutoEncoder(BaseStack):
    r"""Learn features of samples without labels, by a stack of sparse auto-encoders.

    Each layer learns to reconstruct its input through hidden units of which few are active at a
    time: for samples :math:`x`, hidden activations :math:`a = f(W_1 x + b_1)` and reconstructions
    :math:`r = g(W_2 a + b_2)` it minimises

    .. math::

        J = \frac1n \sum_i \tfrac12 \lVert r_i - x_i \rVert^2
            + \frac\alpha2 (\lVert W_1 \rVert^2 + \lVert W_2 \rVert^2)
            + \beta \sum_j \mathrm{KL}(\rho \,\Vert\, \hat\rho_j)

    where :math:`\hat\rho_j` is the mean activation of unit j over *all* samples. The activations of
    one layer are the samples of the next.

    Cost and gradient are computed where the data are, on the Dask scheduler that is active: a
    `distributed.Client` if there is one, else threads.

    Parameters
    ----------
    hidden_layer_sizes : int or tuple of int, default=(25,)
        Hidden units of each layer, from the data up.
    activation : {"logistic", "tanh", "relu", "identity"}, default="logistic"
        Of hidden units, f. "relu" and "identity" need ``sparsity_weight=0``.
    output_activation : {"auto", "logistic", "tanh", "relu", "identity"}, default="auto"
        Of reconstructions, g. "auto" is "logistic" if all input of the layer lies in [0, 1], else
        "identity".
    alpha : float, default=1e-4
        Weight decay α; it is not divided by the number of samples.
    sparsity_target : float, default=0.05
        ρ, the mean activation wanted of every hidden unit. For "tanh", of (1 + a)/2.
    sparsity_weight : float, default=3.0
        β; 0 for no sparsity term.
    corruption : float, (str, float) or a list of these, default=0.0
        Noise in the input of each layer, which it learns to undo: the share of entries that are
        set to 0, or ``("gaussian", σ)`` for normal noise of standard deviation σ that is added. It
        depends on `random_state`, the number of the sample and the layer alone, so that what is
        minimised does not change ("adam" has new noise in every epoch). `transform` and all that
        reconstructs see samples as they are.
    tied : bool, default=False
        Whether decoders are encoders transposed, W2 = W1ᵀ.
    fine_tune : bool, default=False
        Whether all layers are trained together in the end, from the data through all encoders and
        decoders and back to the data; without sparsity term.
    fine_tune_alpha : float, sequence of float or None, default=None
        Weight decay then, or one for each matrix: encoders from the data up, and decoders back;
        that of the first layer if None.
    solver : {"lbfgs", "gd", "adam"}, default="lbfgs"
        L-BFGS, preconditioned by the covariance of the layer's input; plain gradient descent; or
        Adam on mini-batches. See :doc:`/method` for which to take.
    batching : {"progressive", "full"}, default="progressive"
        How "lbfgs" visits the samples. "progressive" starts on small random samples (drawn from
        every chunk), doubles them for as long as the variance of their gradient calls for it, and
        ends with steps that see all samples once each, so that `cost_` and `mean_activations_` are
        over all of them; it gets as far as "full" with a fraction of the visits, so that a smaller
        `max_iter` will do: with the same, it visits samples about as often. "full" visits all
        samples in every iteration; so does "gd", and any solver with less than 16,384 samples.
    max_iter : int, default=400
        Iterations per layer, at most: over all samples for "full", on each random sample for
        "progressive". There, a step over all samples visits them about twice and counts as two and
        a half, and ten of them are allowed in any case. Where samples do not speak for all of them,
        or not any more, "full" takes over for the iterations that are left.
    tol : float, default=1e-6
        Stop when the relative decrease of the cost over ten iterations and the largest entry of the
        gradient, relative to max(1, \|cost\|), are both at most this; 0 runs to `max_iter`.
    epochs : int, default=10
        Times that "adam" visits all samples; its learning rate falls to 0 over the second half.
    batch_size : int, default=256
        Samples of a mini-batch of "adam".
    learning_rate_init : float, default=0.02
        Learning rate of "adam" in the first half.
    local_steps : int, default=32
        Steps that replicas of "adam" take, at least, before they are averaged. How many replicas
        there are depends on the data alone; up to some 60 MB of them, one.
    validation : float, default=0.0
        Share of the samples that is held out: whole chunks of them, drawn at random, or of few
        chunks a share of each. After every iteration over all others (not on random samples), they
        are looked at: training stops where they have cost no less for `n_iter_no_change`
        iterations, and in any case keeps the parameters by which they cost least. `history_` has
        what they cost, but for decay, as "validation".
    n_iter_no_change : int, default=10
        See `validation`.
    dtype : {"float32", "float64"}, default="float32"
        Precision of the arithmetic, of the parameters and of the features. Sums over samples are in
        float64 either way.
    missing : {"raise", "mask"}, default="raise"
        What to do about entries that are NaN. "mask" leaves them out of the reconstruction error
        and its gradient, and fills them with `fill_values_` before they are encoded; see
        :doc:`/method`. Infinity is refused either way.
    pretrained : path, URL, Zarr store or None, default=None
        A saved model of the same shape, of any of these classes, whose layers are taken as they
        are. They are not trained again but in fine-tuning.
    checkpoint : path, URL, Zarr store or None, default=None
        Where progress is written down, so that `fit` with the same data and parameters goes on
        from there after whatever happened, to the same result bit for bit; after the end, it
        returns at once what was learned. See :doc:`/reliability`.
    checkpoint_every : int or str, default="30s"
        How often: a number of iterations, or a time, and then at most so often that writing takes a
        hundredth of it. Also at the end of each layer, and when an error or Ctrl-C ends training.
    warm_start : bool, default=False
        Whether `fit` begins with what was learned before, layer by layer as far as sizes agree,
        and not at random.
    random_state : int, RandomState instance or None, default=None
        Source of the first parameters, of samples, and of noise.
    verbose : int, default=0
        1 prints every tenth iteration, 2 every one.

    Attributes
    ----------
    layers_ : list of Layer
        One record per layer, from the data up, with W1 (hidden, features), b1 (hidden,),
        W2 (features, hidden), b2 (features,), the cost that was minimised, and how training ended.
    coefs_ : list of ndarray of shape (n_features, n_hidden)
        Encoder weights, W1 transposed, as in scikit-learn's MLPRegressor.
    intercepts_ : list of ndarray of shape (n_hidden,)
        Encoder biases b1.
    components_ : ndarray of shape (n_hidden, n_features)
        Filters of the first layer.
    output_activation_ : str
        Output activation of the first layer, the one that reconstructs the data.
    mean_activations_ : list of ndarray of shape (n_hidden,)
        Mean activation of each unit, for each layer.
    tuning_status_ : Status or None
        How the training of all layers together ended, if there was one.
    history_ : list of dict
        One per iteration, with keys `layer` (one more than there are, where all are trained
        together), `phase` ("sample": over a growing sample; "full": over all samples; "batches":
        an epoch of mini-batches, after which a sample is looked at, at the end all), `iteration`,
        `n_rows`, `cost`, its terms `reconstruction`, `decay` and `sparsity`, `validation` if
        samples are held out, `gradient_norm` (Euclidean), `step`, and, of this iteration alone,
        `n_evaluations`, `rows_visited`, `bytes_read` and `seconds`. What evaluations took of these,
        as a mean over threads, is the sum of `seconds_read` (waiting for rows from the store),
        `seconds_compute`, `seconds_reduce` (adding up) and `seconds_wait` (nothing to do).
    info : dict
        Where the model comes from: versions of packages, seed, what tells the data from others
        (sizes, and checksums of rows), scheduler; also of earlier runs that a checkpoint
        continued.
    n_iter_ : int
        Iterations of all layers together.
    cost_ : float
        J of the last layer at the end, over all samples.
    fill_values_ : ndarray of shape (n_features,) or None
        What stands in for entries that are missing: the mean over all samples in which the feature
        is present, 0 if there are none; None for ``missing="raise"``.
    sample_shape_ : tuple of int
        Shape of one sample, as `fit` saw it.
    sample_dims_ : tuple of str, or None
        Names of the dimensions of one sample, if `fit` saw any.
    channel_names_ : tuple of str, or None
        Names of the channels, the last dimension, if `fit` saw any: maps of images with the same
        names put them in this order.
    n_features_in_ : int
        Entries of one sample.
    feature_names_in_ : ndarray of str
        Names of the columns, if `fit` saw any.

    See Also
    --------
    extract_patches : Makes samples of images.
    ContrastNormalizer : Prepares them.

    Notes
    -----
    Samples that fit into half of the memory of the workers are held there from the start of `fit`
    to its end; more are read again for every evaluation. What was decided is logged, to the logger
    "stackedae". ``dask.config.set({"stackedae.memory": "10GB"})`` says how much memory there is;
    "stackedae.scratch" names a folder, seen by all workers, for features that fit nowhere else.
    The same chunks and the same `random_state` give the same bits on every scheduler, any number
    of workers, held or not.

    References
    ----------
    Ng, A., "Sparse autoencoder", CS294A lecture notes, Stanford, 2011.
    Bengio, Y., Lamblin, P., Popovici, D., Larochelle, H., "Greedy layer-wise training of deep
    networks", NIPS 2006.

    Examples
    --------
    >>> import numpy as np
    >>> from stackedae import StackedAutoEncoder
    >>> X = np.random.default_rng(0).random((200, 8, 8))
    >>> sae = StackedAutoEncoder(hidden_layer_sizes=(16, 4), max_iter=5, tol=0, random_state=0)
    >>> sae.fit_transform(X).shape
    (200, 4)
    """

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (25,),
        *,
        activation: str | Sequence[str] = "logistic",
        output_activation: str | Sequence[str] = "auto",
        alpha: float | Sequence[float] = 1e-4,
        sparsity_target: float | Sequence[float] = 0.05,
        sparsity_weight: float | Sequence[float] = 3.0,
        corruption: Any = 0.0,
        tied: bool = False,
        fine_tune: bool = False,
        fine_tune_alpha: float | Sequence[float] | None = None,
        solver: str = "lbfgs",
        batching: str = "progressive",
        max_iter: int = 400,
        tol: float = 1e-6,
        epochs: int = 10,
        batch_size: int = 256,
        learning_rate_init: float = 0.02,
        local_steps: int = 32,
        validation: float = 0.0,
        n_iter_no_change: int = 10,
        dtype: str = "float32",
        missing: str = "raise",
        pretrained: StoreLike | None = None,
        checkpoint: StoreLike | None = None,
        checkpoint_every: int | str = "30s",
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self._keep_parameters(locals())

    def fit(
        self, X: Container, y: Any = None, *, callback: Callable[[Record], None] | None = None
    ) -> Self:
        """Learn the layers, one after the other.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples; trailing dimensions are one sample.
        y : None
            Ignored.
        callback : callable or None
            Called after every iteration with its record of `history_`; see `MetricsFile`, too.

        Returns
        -------
        self

        Raises
        ------
        ArgumentError
            If a parameter cannot be worked with.
        DataError
            If X has no samples, infinity, NaN that is not to be masked, or entries that are not
            real numbers.
        CheckpointError
            If the checkpoint is of other data, other parameters or another version.
        ClusterError
            If workers or the scheduler are gone.
        KeyboardInterrupt
            After Ctrl-C. What was learned until then can be used: the last layer has the status
            INTERRUPTED.

        Warns
        -----
        ConvergenceWarning
            If a layer stopped for another reason than `tol` (which 0 never gives as a reason).
        WaitingWarning
            If workers wait, or read, for longer than they compute; it says what to change.
        """
        self.__dict__.pop("_stream", None)
        return self._fit(X, callback=callback)

    @available_if(_takes_streams)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Container, y: Any = None) -> Self:
        """Take in more samples of a stream, and forget them; ``solver="adam"`` only.

        Every layer takes one step for each mini-batch, on the features that the layers below have
        for it by then. What has to be known of samples beforehand (their range, means and
        covariance) comes from those of the first call, which should be some hundreds at least.
        A fit that was before is forgotten.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples, taken in the order of portions, shuffled within.
        y : None
            Ignored.

        Returns
        -------
        self
            `history_` has a record of every layer for each portion, with the cost of that after its
            steps; layers have the status RUNNING, and the running means of their activations.

        Raises
        ------
        AttributeError
            If the solver is another, which needs all samples at once.
        ArgumentError
            If a parameter cannot be worked with.
        DataError
            If X has another number of features than before, infinity, or NaN that is not to be
            masked.

        Examples
        --------
        >>> import numpy as np
        >>> from stackedae import StackedAutoEncoder
        >>> rng = np.random.default_rng(0)
        >>> sae = StackedAutoEncoder(4, solver="adam", random_state=0)
        >>> for _ in range(3):
        ...     sae = sae.partial_fit(rng.random((500, 16)))
        >>> sae.n_iter_
        3
        """
        settings, training = self._layer_settings(), self._training_settings()
        begins = not hasattr(self, "_stream")
        X = check_samples(self, X, reset=begins)
        if begins:
            self._set_sample_shape(X)
            self._stream = Stream(check_random_state(self.random_state).randint(2**31))
            self.history_: list[Record] = []
        for rows in portions_of(X, training):
            self._stream, records = self._stream.take_in(settings, training, rows)
            self.history_ += records
        layers = tuple(layer.as_layer(self.dtype) for layer in self._stream.layers)
        runs = (this_run(),)
        self._keep(Progress(self._stream.seed, runs=runs, layers=layers, history=self.history_))
        return self

    def inverse_transform(self, X: Container) -> Container:
        r"""Return the samples that activations of the last layer stand for.

        Parameters
        ----------
        X : container of shape (n_samples, n_hidden)
            Activations.

        Returns
        -------
        container of shape (n_samples, \*sample_shape\_)
            The trailing dimensions of a DataArray are those that `fit` saw; without names
            "feature" for flat samples, else y, x and channel, or dim_1, dim_2, … if there are more.
        """
        check_is_fitted(self)
        n_hidden = self._n_features_out
        if len(X.shape) != 2 or X.shape[1] != n_hidden:
            raise DataError(
                f"X has shape {tuple(X.shape)}, and the last layer has {n_hidden} features; pass "
                f"activations of shape (n_samples, {n_hidden}), as transform returns them."
            )
        return self._map("decode", X, named_dims(self.sample_shape_, self.sample_dims_))

    def reconstruct(self, X: Container) -> Container:
        """Return samples after a pass through all layers, up and down again.

        Entries that are missing are predicted from those that are present.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of the shape of X
            Same container and chunks, lazy if X is.
        """
        check_is_fitted(self)
        return self._map("reconstruct", check_samples(self, X, reset=False), None)

    def reconstruction_error(self, X: Container) -> Container:
        r"""Return :math:`\tfrac12 \lVert r - x \rVert^2` of every sample.

        Entries that are missing are left out. For a single layer, the mean over the training
        samples is the reconstruction term of J.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples,)
            Same container and chunks, lazy if X is.
        """
        check_is_fitted(self)
        return self._map("errors", check_samples(self, X, reset=False), {})

    def score_samples(self, X: Container) -> Container:
        """Return minus the reconstruction error of every sample: higher is more normal.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.

        Returns
        -------
        container of shape (n_samples,)
        """
        return -self.reconstruction_error(X)

    def score(self, X: Container, y: Any = None) -> float:
        """Return the mean of `score_samples`, computed now.

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …)
            Samples.
        y : None
            Ignored.

        Returns
        -------
        float
            At most 0; higher is better.
        """
        return float(self.score_samples(X).mean())

    def report(self, X: Container | None = None, *, title: str | None = None) -> Report:
        """Return a page of HTML on what was learned, from what, and how it went.

        It has the filters of all layers, the cost in the course of training, mean activations, how
        each layer ended and what to do about it, what training took, parameters, versions, and
        where the data and the model come from. It needs matplotlib (extra "plot").

        Parameters
        ----------
        X : array-like, Dask array, DataArray or zarr.Array of shape (n_samples, …), or None
            Samples such as `fit` saw. The page then has reconstructions, and the distribution of
            errors, of up to 1,000 of them, drawn at random from up to eight chunks, which alone are
            read; and the attributes of a DataArray.
        title : str or None
            Of the page.

        Returns
        -------
        Report
            Has the page as `html`, and `save`; notebooks show it.

        Raises
        ------
        MissingExtraError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from stackedae import StackedAutoEncoder
        >>> X = np.random.default_rng(0).random((50, 6, 6))
        >>> sae = StackedAutoEncoder(4, max_iter=2, tol=0, random_state=0).fit(X)
        >>> report = sae.report(X, title="Six by six")
        >>> "<h1>Six by six</h1>" in report.html
        True
        """
        return make_report(self, X, title=title)
