"""The command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click
import dask
import numpy as np
from dask.utils import format_bytes, parse_bytes
from skimage.io import imsave

from stackedae._version import __version__
from stackedae.checkpoint import read_checkpoint
from stackedae.costs import ACTIVATIONS
from stackedae.datasets import natural_images
from stackedae.deployment import (
    BATCH_SYSTEMS,
    batch_workers,
    local_workers,
    workers_of,
    workers_of_this_job,
)
from stackedae.errors import ArgumentError, StackedAEError, StoreExistsError
from stackedae.estimators import StackedAutoEncoder
from stackedae.failures import quiet_when_interrupted
from stackedae.features import (
    MAP,
    error_map,
    feature_map,
    reconstruct_image,
    rows_of_blocks,
    write_map,
)
from stackedae.mapping import MODES
from stackedae.memory import rows_per_portion
from stackedae.metrics import MetricsFile
from stackedae.minimisation import BATCHING, DTYPES, SOLVERS, TrainingSettings
from stackedae.models import AnyModel, load_any
from stackedae.patches import open_patches, plan_patches
from stackedae.planning import LayerPlan, Workers, plan_layers
from stackedae.plotting import FilterDisplay
from stackedae.plotting.axes import counted
from stackedae.plotting.fitted import head_of, parts_of
from stackedae.preprocessing import ContrastNormalizer
from stackedae.progress import TERMS, Record, part_of
from stackedae.report.tables import architecture
from stackedae.samples import MISSING
from stackedae.sources import open_image
from stackedae.storage import new_samples, open_samples
from stackedae.stores import exists, kind_of, refuse_existing, refuse_existing_file
from stackedae.terminal import (
    TRY_AGAIN,
    Terminated,
    bar,
    following,
    interrupted_by_sigterm,
    moving,
    say,
    telling_warnings,
)

_ZOOM = 12

_INTERRUPTED, _TERMINATED = 130, 143
"""Exit codes of what Ctrl-C and SIGTERM ended, as shells have them."""


class _BadInput(click.ClickException):
    """One line, and the exit code of wrong usage."""

    exit_code = 2


class _Commands(click.Group):
    """Turns the errors that the library raises on purpose into one line each."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click knows: who read our output has gone
        except (StackedAEError, OSError) as error:
            raise _BadInput(" ".join(str(error).split())) from error


_WHERE = (
    click.option(
        "--security",
        is_flag=True,
        help="Encrypt what the processes of --workers or --cluster say to each other, and let "
        "nobody else connect.",
    ),
    *(
        click.option(f"--{name}", metavar=metavar, type=kind, help=f"Of a job: {what}.")
        for name, metavar, kind, what in (
            ("queue", "NAME", str, "the queue, or partition, that it goes to"),
            ("walltime", "HH:MM:SS", str, "how long it may run; another follows it"),
            ("memory", "SIZE", str, "memory of all its workers together: 16GB, say"),
            ("cores", "N", click.IntRange(1), "threads of all its workers together"),
        )
    ),
    click.option(
        "--jobs",
        type=click.IntRange(1),
        metavar="N",
        help="Jobs to keep in the batch system of --cluster.",
    ),
    click.option(
        "--cluster",
        type=click.Choice((*BATCH_SYSTEMS, "srun")),
        metavar="SYSTEM",
        help=f"Compute in jobs of a batch system ({', '.join(BATCH_SYSTEMS)}), which are "
        "submitted as dask-jobqueue does and its configuration says; srun: in the other tasks "
        "of this job of Slurm.",
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS|FILE",
        help="Compute on the cluster of this Dask scheduler; tls://… goes by what "
        "distributed.comm.tls says.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        metavar="N",
        help="Compute in so many processes of this machine, which nobody outside can reach; "
        "in threads if not given.",
    ),
)
"""Options that say where a command computes, the last first."""


def _runs_on_workers(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where a command computes: inside of `computing`."""
    for option in _WHERE:
        command = option(command)

    @wraps(command)
    def on_workers(
        *arguments: Any,
        workers: int | None,
        scheduler: str | None,
        cluster: str | None,
        jobs: int | None,
        security: bool,
        cores: int | None,
        memory: str | None,
        walltime: str | None,
        queue: str | None,
        **options: Any,
    ) -> None:
        of_jobs = {"cores": cores, "memory": memory, "walltime": walltime, "queue": queue}
        where = {"--workers": workers, "--scheduler": scheduler, "--cluster": cluster}
        _refuse_contradictions(where, jobs, of_jobs, security)
        there: Any = nullcontext()
        if workers is not None:
            there = local_workers(workers, encrypted=security)
        elif scheduler is not None:
            there = workers_of(scheduler)
        elif cluster == "srun":
            there = workers_of_this_job(tell=say)
        elif cluster is not None and jobs is not None:
            there = batch_workers(cluster, jobs, encrypted=security, tell=say, **of_jobs)
        try:
            with interrupted_by_sigterm(), quiet_when_interrupted():
                command(*arguments, computing=there, **options)
        except Terminated:
            raise SystemExit(TRY_AGAIN if options.get("resume") else _TERMINATED) from None

    return on_workers


def _refuse_contradictions(
    where: dict[str, Any], jobs: int | None, of_jobs: dict[str, Any], security: bool
) -> None:
    told = [option for option, value in where.items() if value is not None]
    if len(told) > 1:
        raise click.UsageError(f"{told[0]} excludes {told[1]}")
    submits = where["--cluster"] in BATCH_SYSTEMS
    if security and not (submits or where["--workers"]):
        raise click.UsageError("--security needs --workers, or --cluster and --jobs")
    if submits and jobs is None:
        raise click.UsageError(f"--cluster {where['--cluster']} needs --jobs")
    for name, value in {"jobs": jobs, **of_jobs}.items():
        if value is not None and not submits:
            raise click.UsageError(f"--{name} needs --cluster {'|'.join(BATCH_SYSTEMS)}")


def _sizes(text: str) -> tuple[int, ...]:
    """Read sizes such as 8x8 or 8x8x3."""
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not like 8x8") from error


def _names(text: str) -> tuple[str | int, ...]:
    """Read names or numbers of dimensions, such as lat,lon or 1,2."""
    return tuple(_name(part) for part in text.split(","))


def _name(text: str) -> str | int:
    """Read the name of a dimension, or its number."""
    return int(text) if text.lstrip("-").isdecimal() else text


def _opens_images(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what in an image is what."""
    for option in (
        click.option(
            "--channel-dim",
            type=_name,
            metavar="DIM",
            help="Name or number of the dimension of channels.",
        ),
        click.option(
            "--dims",
            type=_names,
            metavar="DIM,DIM",
            help="Names or numbers of the dimensions in space: lat,lon, say.",
        ),
        click.option(
            "--level",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="Of a pyramid (OME-Zarr, TIFF); 0 has the most pixels.",
        ),
    ):
        command = option(command)
    return command


def _noise(text: str) -> float | tuple[str, float]:
    """Read 0.3 or gaussian:0.1."""
    kind, _, amount = text.rpartition(":")
    try:
        return (kind, float(amount)) if kind else float(amount)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not like 0.3 or gaussian:0.1") from error


def _interval(text: str) -> int | str:
    """Read 30s, 5m or 10."""
    return int(text) if text.isdecimal() else text


_hidden = click.option(
    "--hidden",
    type=click.IntRange(1),
    multiple=True,
    default=(25,),
    show_default=True,
    help="Hidden units; repeat for further layers.",
)
_max_iter = click.option(
    "--max-iter", type=int, default=400, show_default=True, help="Iterations per layer."
)
_precision = click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
    show_default=True,
    help="Precision of the arithmetic.",
)
"""What a fit and its plan have in common."""


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="stackedae")
def main() -> None:
    """Learn features of image patches, without labels, where the patches are."""


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("stackedae-demo"),
    show_default=True,
    help="Folder to write to.",
)
def demo(out: Path) -> None:
    """Learn edge detectors from photographs, in under a minute.

    Writes patches.zarr, model.zarr and filters.png.
    """
    started = time.perf_counter()
    plan = plan_patches(natural_images(), (8, 8), 100_000, rng=0)
    with bar("patches", len(plan.numbers)) as advance:
        plan.write(out / "patches.zarr", overwrite=True, on_cut=advance)
    patches = ContrastNormalizer().fit_transform(open_patches(out / "patches.zarr"))
    sae = StackedAutoEncoder((25,), sparsity_target=0.01, max_iter=150, tol=0, random_state=0)
    with bar("fit", sae.max_iter) as advance:
        sae.fit(patches, callback=moving(advance, sae.max_iter))
    sae.save(out / "model.zarr", overwrite=True)
    _write_montage(sae, None, out / "filters.png")
    click.echo(
        f"{len(plan.numbers):,} patches, {len(sae.components_)} features, cost {sae.cost_:.4f}, "
        f"{time.perf_counter() - started:.0f} s"
    )
    for name, what in (
        ("patches.zarr", "what it learned from"),
        ("model.zarr", "what it learned; try: stackedae info"),
        ("filters.png", "a picture of it"),
    ):
        click.echo(f"  {out / name}  {what}")


@main.command()
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--patch",
    "patch_shape",
    type=_sizes,
    metavar="HxW",
    default="8x8",
    show_default=True,
    help="Size of a patch, in pixels.",
)
@click.option("--n-patches", type=click.IntRange(1), help="How many; every position if not given.")
@click.option("--stride", type=click.IntRange(1), help="Take positions from a grid of this step.")
@click.option(
    "--weights",
    metavar="variance|IMAGE",
    help="Take patches in proportion to the variance of their pixels, or to the mean of an image.",
)
@click.option("--mask", metavar="IMAGE", help="Not 0 for pixels that are there.")
@click.option("--nodata", type=float, help="Value of pixels that are not there.")
@click.option(
    "--min-valid",
    type=click.FloatRange(0, 1),
    help="Share of the pixels of a patch that must be there; 1 with --mask or --nodata.",
)
@click.option("--max-per-image", type=click.IntRange(1), help="Patches of one image, at most.")
@_opens_images
@click.option("--out", type=click.Path(), required=True, help="Zarr store to write.")
@click.option(
    "--chunks", type=click.IntRange(1), help="Patches per chunk; about 8 MiB if not given."
)
@click.option("--dtype", default="float32", show_default=True, help="Of the patches.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of positions and order.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def extract(
    images: tuple[str, ...],
    patch_shape: tuple[int, ...],
    n_patches: int | None,
    out: str,
    dtype: str,
    seed: int,
    overwrite: bool,
    **how: Any,
) -> None:
    """Cut patches out of IMAGES into a Zarr store.

    IMAGES are files, glob patterns, or Zarr stores: OME-Zarr, what xarray writes, single arrays.
    """
    refuse_existing(out, overwrite=overwrite)  # now, not after decoding every file
    plan = plan_patches(images, patch_shape, n_patches, dtype=_dtype(dtype), rng=seed, **how)
    with bar("patches", len(plan.numbers)) as advance:
        plan.write(out, overwrite=overwrite, on_cut=advance)
    click.echo(f"{out}  {_describe(plan.shape, plan.dims, plan.dtype)}")


@main.command()
@click.argument("patches", type=click.Path())
@_hidden
@click.option(
    "--activation",
    type=click.Choice(tuple(ACTIVATIONS)),
    default="logistic",
    show_default=True,
    help="Of hidden units.",
)
@click.option(
    "--output-activation",
    type=click.Choice(["auto", *ACTIVATIONS]),
    default="auto",
    show_default=True,
    help="Of reconstructions.",
)
@click.option("--alpha", type=float, default=1e-4, show_default=True, help="Weight decay.")
@click.option(
    "--sparsity-target",
    type=float,
    default=0.05,
    show_default=True,
    help="Mean activation wanted of every unit.",
)
@click.option(
    "--sparsity-weight", type=float, default=3.0, show_default=True, help="How much it counts."
)
@click.option(
    "--corruption",
    type=_noise,
    metavar="SHARE|gaussian:SIGMA",
    default="0",
    show_default=True,
    help="Noise in the input, which layers learn to undo: the share of entries set to 0, or normal "
    "noise of standard deviation SIGMA.",
)
@click.option("--tied", is_flag=True, help="Let decoders be encoders transposed.")
@click.option("--fine-tune", is_flag=True, help="Train all layers together in the end.")
@click.option(
    "--solver",
    type=click.Choice(SOLVERS),
    default="lbfgs",
    show_default=True,
    help="How to minimise.",
)
@click.option(
    "--batching",
    type=click.Choice(BATCHING),
    default="progressive",
    show_default=True,
    help="Few passes over the samples, or all of them in every iteration.",
)
@_max_iter
@click.option(
    "--tol", type=float, default=1e-6, show_default=True, help="When to stop; 0: at max-iter."
)
@click.option(
    "--validation",
    type=float,
    default=0.0,
    show_default=True,
    help="Share of the patches to hold out: training stops where these cost no less any more.",
)
@_precision
@click.option(
    "--missing",
    type=click.Choice(MISSING),
    default="raise",
    show_default=True,
    help="What to do about pixels that are NaN: refuse them, or leave them out.",
)
@click.option(
    "--seed",
    "random_state",
    type=int,
    default=0,
    show_default=True,
    help="Of the first parameters.",
)
@click.option(
    "--checkpoint", type=click.Path(), help="Store to write progress to, so that no work is lost."
)
@click.option(
    "--checkpoint-every",
    type=_interval,
    metavar="TIME|N",
    default="30s",
    show_default=True,
    help="How often: 30s, 5m, or a number of iterations.",
)
@click.option("--resume", is_flag=True, help="Go on from CHECKPOINT, if it is there.")
@click.option(
    "--metrics",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File that others follow: a line for each iteration (.jsonl), or Prometheus's text "
    "(.prom).",
)
@_runs_on_workers
@click.option("--out", type=click.Path(), required=True, help="Model to write.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def fit(
    patches: str,
    hidden: tuple[int, ...],
    out: str,
    overwrite: bool,
    resume: bool,
    checkpoint: str | None,
    metrics: Path | None,
    computing: AbstractContextManager[Any],
    **parameters: Any,
) -> None:
    """Learn features of PATCHES, a store that extract wrote.

    Ctrl-C ends it with what was learned so far as the model, and a checkpoint if there is one: the
    same command with --resume then goes on, and replaces the model. So does SIGTERM, which batch
    systems send: the exit code is 75 then if there is a checkpoint to go on from.
    """
    if resume and checkpoint is None:
        raise click.UsageError("--resume needs --checkpoint")
    # Now, not after hours of work.
    overwrite = overwrite or (resume and exists(out) and kind_of(out) == "model")
    refuse_existing(out, overwrite=overwrite)
    if checkpoint is not None and not resume and exists(checkpoint):
        raise StoreExistsError(
            f"{checkpoint} exists already; pass --resume to go on from it, or remove it."
        )
    follower = None if metrics is None else MetricsFile(metrics)
    samples = open_patches(patches)
    sae = StackedAutoEncoder(hidden, checkpoint=checkpoint, **parameters)
    try:
        with (
            computing,
            telling_warnings(),
            following(sae.max_iter, len(hidden) + sae.fine_tune, follower) as callback,
        ):
            sae.fit(samples, callback=callback)
    except KeyboardInterrupt as interrupt:
        _tell_of_interruption(sae, out, overwrite, checkpoint)
        if isinstance(interrupt, Terminated):
            raise SystemExit(_TERMINATED if checkpoint is None else TRY_AGAIN) from None
        raise SystemExit(_INTERRUPTED) from None
    sae.save(out, overwrite=overwrite)
    click.echo(f"{out}  {architecture(sae)}, cost {sae.cost_:.6g} after {sae.n_iter_} iterations")


@main.command()
@click.argument("patches", type=click.Path())
@_hidden
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Worker processes."
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of each worker."
)
@click.option("--memory", metavar="SIZE", required=True, help="Of each worker: 4GB, say.")
@_max_iter
@_precision
def plan(
    patches: str,
    hidden: tuple[int, ...],
    workers: int,
    threads: int,
    memory: str,
    max_iter: int,
    dtype: str,
) -> None:
    """Say what a fit of PATCHES would take of a cluster, and refuse what would not fit.

    What kernels and the store give is measured here: run it on a machine like those of the cluster.
    Folders that Dask's configuration names for scratch are taken into account.
    """
    try:
        cluster = Workers(workers, threads, parse_bytes(memory))
    except ValueError as error:
        raise ArgumentError("memory", memory, "is no size", "pass 4GB, say") from error
    samples = open_patches(patches)
    click.echo(f"{patches}  {_describe(samples.shape, samples.dims, samples.dtype)}")
    click.echo(
        f"cluster  {counted(workers, 'worker')} of {counted(threads, 'thread')} and "
        f"{format_bytes(int(cluster.memory))} each"
    )
    training = TrainingSettings("lbfgs", "progressive", max_iter, 1e-6, dtype, missing=False)
    may_spill = dask.config.get("stackedae.scratch", None) is not None
    for number, layer in enumerate(
        plan_layers(samples, hidden, cluster, training, may_spill=may_spill)
    ):
        click.echo(f"layer {number}  {layer.n_features}-{layer.n_hidden}")
        for name, what in _words_of(layer):
            click.echo(f"  {name:<11} {what}")
    click.echo("It fits.")


def _words_of(layer: LayerPlan) -> Iterator[tuple[str, str]]:
    """Say in words what a layer takes."""
    told, task = layer.forecast, layer.task
    yield "input", f"{layer.place}: {layer.reason}"
    if layer.bytes_to_hold:
        yield "to hold it", f"{format_bytes(layer.bytes_to_hold)} read, once"
    if task is not None:
        shards = f"{task.n_shards} of {counted(told.n_shards, 'shard')}"
        needed, there = (format_bytes(int(n_bytes)) for n_bytes in (task.needed, task.there))
        yield "memory", f"{needed} for a task, of {there}; it takes {shards}"
    yield (
        "evaluation",
        f"{counted(told.n_tasks, 'task')}, {told.flops / 1e9:,.3g} GFLOP, "
        f"{format_bytes(int(told.bytes_read))} read, {format_bytes(int(told.bytes_sent))} sent",
    )
    parts = sorted(told.seconds.items(), key=lambda part: -part[1])
    shown = (f"{name} {seconds:.2g}" for name, seconds in parts if seconds >= told.total / 100)
    yield "seconds", f"{told.total:.2g} each: {', '.join(shown)}"
    if told.n_tasks and told.limit not in ("read", "compute"):
        yield "limit", "the way to the workers and back, and not the work: fewer would do"


@main.command()
@click.argument("model", type=click.Path())
@click.argument("samples", type=click.Path())
@click.option("--map", "kind", flag_value="features", help="SAMPLES is an image: map its features.")
@click.option("--error-map", "kind", flag_value="errors", help="Map reconstruction errors instead.")
@click.option("--reconstruct", "kind", flag_value="image", help="Make the image of its patches.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="same",
    show_default=True,
    help="Of a map: as large as the image, or only where a patch lies inside.",
)
@click.option(
    "--stride",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Of a map: pixels between positions.",
)
@click.option("--layer", type=int, help="Of a map: whose features; the last one's if not given.")
@_opens_images
@_runs_on_workers
@click.option("--out", type=click.Path(), required=True, help="Zarr store to write.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def transform(
    model: str,
    samples: str,
    kind: str | None,
    layer: int | None,
    out: str,
    overwrite: bool,
    computing: AbstractContextManager[Any],
    **how: Any,
) -> None:
    """Write the features that MODEL finds in SAMPLES, a store of patches, or in an image.

    For patches, they come with the patches' coordinates. With --map, --error-map or --reconstruct,
    SAMPLES is an image (whatever extract takes), and they come in its coordinates.
    """
    sae = load_any(model)
    refuse_existing(out, overwrite=overwrite)
    if kind is None:
        with computing:
            _transform_patches(sae, open_patches(samples), out, overwrite, model, samples)
        return
    make: dict[str, Callable[..., Any]] = {
        "features": partial(feature_map, layers=layer),
        "errors": error_map,
        "image": reconstruct_image,
    }
    mapped = make[kind](sae, samples, **how)
    attrs = {"model": model, "image": samples}
    with computing, bar("map", rows_of_blocks(mapped)[1][-1]) as advance:
        write_map(mapped, out, attrs=attrs, overwrite=overwrite, on_written=advance)
    click.echo(f"{out}  {_describe(mapped.shape, mapped.dims, mapped.dtype)}")


def _transform_patches(
    sae: AnyModel, samples: Any, out: str, overwrite: bool, model: str, patches: str
) -> None:
    features = sae.transform(samples)
    portion = rows_per_portion(features.dtype.itemsize * features.shape[1], features.chunks[0][0])
    with (
        bar("features", len(features)) as advance,
        new_samples(
            out,
            "features",
            shape=features.shape,
            chunk_rows=features.chunks[0][0],
            dtype=features.dtype,
            dims=features.dims,
            coords={name: coord.values for name, coord in features.coords.items()},
            attrs={"created_by": f"stackedae {__version__}", "model": model, "patches": patches},
            overwrite=overwrite,
        ) as array,
    ):
        for start in range(0, len(features), portion):
            rows = slice(start, min(start + portion, len(features)))
            array[rows] = features.data[rows].compute()
            advance(rows.stop - rows.start)
    click.echo(f"{out}  {_describe(features.shape, features.dims, features.dtype)}")


@main.command()
@click.argument("model", type=click.Path())
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("filters.png"),
    show_default=True,
    help="PNG to write.",
)
@click.option(
    "--patch",
    "patch_shape",
    type=_sizes,
    metavar="HxW",
    help="Size of a patch, if samples were flat.",
)
def filters(model: str, out: Path, patch_shape: tuple[int, ...] | None) -> None:
    """Draw the filters of MODEL's first layer."""
    _write_montage(load_any(model), patch_shape, out)
    click.echo(str(out))


@main.command()
@click.argument("model", type=click.Path())
@click.option(
    "--patches", type=click.Path(), help="Store of patches, some of which to reconstruct."
)
@click.option(
    "--out",
    type=click.Path(),
    default="report.html",
    show_default=True,
    help="HTML file to write.",
)
@click.option("--title", help="Of the page.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def report(model: str, patches: str | None, out: str, title: str | None, overwrite: bool) -> None:
    """Write a page on MODEL: what was learned, from what, and how it went.

    It is one HTML file that needs no network. It takes matplotlib (extra "plot") to draw it.
    """
    refuse_existing_file(out, overwrite=overwrite)
    sae = load_any(model)
    samples = None if patches is None else open_patches(patches)
    sae.report(samples, title=title).save(out, overwrite=overwrite)
    click.echo(out)


@main.command()
@click.argument("path", type=click.Path())
def info(path: str) -> None:
    """Say what PATH, a store of this library, holds."""
    kind = kind_of(path)
    if kind == "model":
        _describe_model(load_any(path))
        return
    if kind == "checkpoint":
        _describe_checkpoint(path)
        return
    samples: Any = open_image(path) if kind == MAP else open_samples(path, kind)
    click.echo(f"{kind}  {_describe(samples.shape, samples.dims, samples.dtype)}")
    if kind == MAP:
        click.echo(f"chunks  {' × '.join(f'{sizes[0]:,}' for sizes in samples.chunks)}")
    else:
        click.echo(
            f"chunks  {samples.chunks[0][0]:,} of {samples.nbytes / len(samples):.0f} bytes each"
        )
    for name, value in samples.attrs.items():
        click.echo(f"{name}  {value}")


def _describe_model(sae: AnyModel) -> None:
    click.echo(f"model  {type(sae).__name__} {architecture(sae)}")
    head, parts = head_of(sae), parts_of(sae)
    kinds = [f"{e.cost.activation} → {e.cost.output_activation}; " for e in sae.layers_]
    kinds += [] if head is None else [f"{head.activation}, {counted(len(head.s), 'output')}; "]
    kinds += [""] * (len(parts) - len(kinds))  # all layers together are of no kind
    for (name, last, status), kind in zip(parts, kinds, strict=True):
        click.echo(
            f"{name}  {kind}{status.name} after {counted(last['iteration'], 'iteration')}, "
            f"{last['n_rows']:,} samples"
        )
        click.echo(f"  {_cost_of(last)}")
    offset = getattr(sae, "offset_", None)
    if offset is not None:
        click.echo(f"outliers  error above {-offset:.4g}")
    click.echo("parameters")
    for name, value in sae.get_params().items():
        click.echo(f"  {name}={value!r}")


def _cost_of(record: Record) -> str:
    """Return the cost after an iteration, as the sum that it is."""
    terms = (f"{name.replace('_', ' ')} {record[name]:.4g}" for name in TERMS if name in record)
    held_out = f"; held out {record['validation']:.4g}" if "validation" in record else ""
    return f"cost {record['cost']:.4g} = {' + '.join(terms)}{held_out}"


def _describe_checkpoint(path: str) -> None:
    newest = read_checkpoint(path)
    if newest is None:
        click.echo("checkpoint  empty")
        return
    settings, progress = newest
    n_layers = np.size(settings["hidden_layer_sizes"])
    trained = f"{len(progress.layers)} layers trained, of {n_layers}"
    trained += "" if progress.head is None else ", and the head"
    trained += "" if progress.tuned is None else ", and all layers together"
    click.echo(f"checkpoint  {trained}")
    if progress.history:
        last = progress.history[-1]
        click.echo(
            f"{part_of(last, n_layers)}  phase {last['phase']}, iteration {last['iteration']}, "
            f"cost {last['cost']:.4g}"
        )
    for title, values in (("data", progress.data), ("parameters", settings)):
        click.echo(title)
        for name, value in values.items():
            click.echo(f"  {name}={value!r}")


def _tell_of_interruption(
    sae: StackedAutoEncoder, out: str, overwrite: bool, checkpoint: str | None
) -> None:
    said = ["Interrupted."]
    if hasattr(sae, "layers_"):
        sae.save(out, overwrite=overwrite)
        said.append(f"{out} has what was learned in {sae.n_iter_} iterations.")
    if checkpoint is not None:
        said.append("The same command with --resume goes on.")
    say(" ".join(said))


def _describe(shape: tuple[int, ...], dims: Any, dtype: Any) -> str:
    sizes = ", ".join(f"{dim}: {size:,}" for dim, size in zip(dims, shape, strict=True))
    return f"({sizes}) {dtype}, {np.prod(shape) * np.dtype(dtype).itemsize / 2**20:,.1f} MiB"


def _write_montage(sae: AnyModel, patch_shape: Any, out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise ArgumentError("out", str(out), "does not end in .png", "pass filters.png, say")
    picture = FilterDisplay.computed(sae, patch_shape=patch_shape).montage(zoom=_ZOOM)
    out.parent.mkdir(parents=True, exist_ok=True)
    imsave(out, picture, check_contrast=False)


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError as error:
        raise ArgumentError("dtype", name, "is no dtype of NumPy", "pass float32, say") from error
