"""Where displays draw, and in which colours."""

from __future__ import annotations

from typing import Any

from stackedae.errors import ArgumentError, MissingExtraError

# Okabe and Ito's colours can be told apart without colour vision, as far as
# colours can; markers and dashes say the same again.
BLACK, GREY = "#000000", "#595959"
BLUE, SKY, VERMILION, ORANGE, GREEN = "#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73"


def refuse_without_matplotlib() -> None:
    """Raise a `MissingExtraError` if matplotlib is not there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "pictures need matplotlib; install it, or pip install 'stackedae[plot]'."
        ) from error


def axes_or_new(ax: Any, figsize: tuple[float, float]) -> Any:
    """Return the axes that were passed, or those of a new figure."""
    refuse_without_matplotlib()
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=figsize, layout="constrained")[1]


def show_picture(ax: Any, picture: Any) -> Any:
    """Draw a picture of bytes, grey or in colours, without a frame."""
    image = ax.imshow(picture, cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[], frame_on=False)
    return image


def divided(ax: Any, rows: int, columns: int = 1, **spacing: Any) -> list[Any]:
    """Hide axes and return others in their place, row by row."""
    figure, place = ax.figure, ax.get_subplotspec()
    if place is None:
        raise ArgumentError("ax", ax, "has no place in a grid", "pass one of plt.subplots(), say")
    ax.set_axis_off()
    grid = place.subgridspec(rows, columns, **spacing)
    return [figure.add_subplot(grid[i, j]) for i in range(rows) for j in range(columns)]


def counted(n: int, noun: str) -> str:
    """Return a number and what it counts: "1 unit", "2 units"."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def name_above(ax: Any, x: float, name: str) -> None:
    """Write the name of a stretch of the horizontal axis above it."""
    at = {"x": x, "y": 1.01, "transform": ax.get_xaxis_transform()}
    ax.text(s=name, ha="center", va="bottom", color=GREY, fontsize="small", **at)


def legend_above(ax: Any, n_columns: int, **entries: Any) -> None:
    """Put the legend where no line can be."""
    ax.legend(
        **entries,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.05),
        ncols=n_columns,
        frameon=False,
        borderaxespad=0.0,
        handlelength=2.2,
        columnspacing=1.2,
    )
