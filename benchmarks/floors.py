"""The two floors under MEON's time: the arithmetic that must be done, and the bytes that must move.

``python benchmarks/floors.py`` prints the tables of docs/performance.md, which also derives them by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from meon_ext.weights_io import CROP_SIZE, Architecture

STRIDE = 128
PHOTOS = ((512, 384), (768, 512), (4000, 3000))

_NETWORK = Architecture()
_POOL = 2
_FLOAT = 4  # bytes
_PADDING = -1


@dataclass(frozen=True)
class Work:
    """One stage: multiply-adds of its convolution (or product) and of its GDN, and the bytes of its input and output.

    GDN counts the C^2 multiply-adds of its norm; squares, roots, divisions and the pool's comparisons are left out, as
    are biases. Products with the zero padding count, since a kernel does them.
    """

    name: str
    conv: int
    gdn: int
    read: int
    written: int

    @property
    def flops(self) -> int:
        """A multiply-add is two."""
        return 2 * (self.conv + self.gdn)


class Grid(NamedTuple):
    """A regular grid of crops: offsets in pixels along each axis."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def crops(self) -> int:
        return len(self.rows) * len(self.columns)


def positions(length: int, stride: int = STRIDE) -> tuple[int, ...]:
    """Offsets of the crops along a side, the last flush with the border."""
    count = -((CROP_SIZE - length) // stride) + 1
    return tuple(min(i * stride, length - CROP_SIZE) for i in range(count))


def photo_grid(width: int, height: int, stride: int = STRIDE) -> Grid:
    return Grid(positions(height, stride), positions(width, stride))


ONE_CROP = Grid((0,), (0,))


def distinct_outputs(offsets: Sequence[int]) -> list[int]:
    """How many different pooled outputs each stage has along one axis, over all crops at these offsets.

    Two outputs are the same if they read the same inputs: the same pixels for the first stage, the same outputs of the
    stage before for the others, padding in the same places. Rows and columns are independent, so that a stage of a grid
    of crops has (distinct rows) x (distinct columns) different outputs.
    """
    crops = [list(range(offset, offset + CROP_SIZE)) for offset in offsets]
    counts = []
    for stage in _NETWORK.stages:
        taps = (_POOL - 1) * stage.stride + stage.kernel
        numbers: dict[tuple[int, ...], int] = {}
        outputs = []
        for crop in crops:
            border = [_PADDING] * stage.padding
            line = border + crop + border
            windows = range(0, len(line) - taps + 1, stage.stride * _POOL)
            outputs.append([numbers.setdefault(tuple(line[at : at + taps]), len(numbers)) for at in windows])
        counts.append(len(numbers))
        crops = outputs
    return counts


def work(grid: Grid) -> list[Work]:
    """What each stage has to do when nothing is computed twice, then the two heads together."""
    stages = []
    rows, columns = distinct_outputs(grid.rows), distinct_outputs(grid.columns)
    # Pixels under the crops: of a regular grid, all between the first and the last.
    height, width = (axis[-1] + CROP_SIZE - axis[0] for axis in grid)
    read = height * width * _NETWORK.stages[0].in_channels  # bytes: uint8
    for i, stage in enumerate(_NETWORK.stages):
        outputs = rows[i] * columns[i]
        filters = stage.in_channels * stage.kernel**2 * stage.out_channels
        written = outputs * stage.out_channels * _FLOAT
        stages.append(
            Work(
                name=f"stage {i + 1}",
                conv=outputs * _POOL**2 * filters,
                gdn=outputs * _POOL**2 * stage.out_channels**2,
                read=read,
                written=written,
            )
        )
        read = written
    heads = _NETWORK.heads.values()
    stages.append(
        Work(
            name="heads",
            conv=grid.crops * sum(features * hidden + hidden * outputs for features, hidden, outputs in heads),
            gdn=grid.crops * sum(hidden**2 for _, hidden, _ in heads),
            read=read,
            written=grid.crops * (1 + _NETWORK.num_classes) * _FLOAT,
        )
    )
    return stages


def flops(grid: Grid) -> int:
    return sum(stage.flops for stage in work(grid))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'|'.join(['---'] + ['---:'] * (len(header) - 1))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def stage_table(title: str, grid: Grid) -> Iterator[str]:
    """Stage by stage, and their sum."""
    header = (title, "conv, million multiply-adds", "GDN", "MFLOP", "kB in", "kB out", "FLOP a byte")
    stages = work(grid)
    rows = []
    for stage in stages:
        moved = stage.read + stage.written
        rows.append(
            (
                stage.name,
                *(f"{count / 1e6:,.3f}" for count in (stage.conv, stage.gdn, stage.flops)),
                *(f"{count / 1e3:,.1f}" for count in (stage.read, stage.written)),
                f"{stage.flops / moved:.0f}",
            )
        )
    conv, gdn, total = (sum(counts) / 1e6 for counts in zip(*((s.conv, s.gdn, s.flops) for s in stages), strict=True))
    read, written = stages[0].read / 1e3, stages[-1].written / 1e3
    intensity = total * 1e3 / (read + written)
    rows.append(
        (
            "all, fused",
            f"{conv:,.3f}",
            f"{gdn:,.3f}",
            f"{total:,.3f}",
            f"{read:,.1f}",
            f"{written:,.1f}",
            f"{intensity:.0f}",
        )
    )
    return _table(header, rows)


def photo_table() -> Iterator[str]:
    """Whole photographs: distinct outputs of each stage, and the work with and without reuse."""
    header = ("photo", "crops", "stage 1", "stage 2", "stage 3", "GFLOP, crop by crop", "GFLOP, reuse", "less")
    rows = []
    for width, height in PHOTOS:
        grid = photo_grid(width, height)
        distinct = zip(distinct_outputs(grid.rows), distinct_outputs(grid.columns), strict=True)
        apart, shared = grid.crops * flops(ONE_CROP), flops(grid)
        rows.append(
            (
                f"{width} x {height}",
                f"{len(grid.rows)} x {len(grid.columns)} = {grid.crops}",
                *[f"{rows} x {columns}" for rows, columns in distinct][:3],
                f"{apart / 1e9:.3f}",
                f"{shared / 1e9:.3f}",
                f"{apart / shared:.2f} x",
            )
        )
    return _table(header, rows)


# Round numbers, to be scaled by what compare.py measures.
PEAK = 100e9  # FLOP/s
BANDWIDTH = 10e9  # bytes/s


def time_table() -> Iterator[str]:
    """The floors as times."""
    header = ("", "arithmetic at 100 GFLOP/s", "bytes at 10 GB/s", "arithmetic / bytes")
    grids = {"one crop": ONE_CROP} | {f"{w} x {h}, reuse": photo_grid(w, h) for w, h in PHOTOS}
    rows = []
    for name, grid in grids.items():
        arithmetic, reading = flops(grid) / PEAK, work(grid)[0].read / BANDWIDTH
        rows.append((name, f"{arithmetic * 1e3:.3f} ms", f"{reading * 1e3:.3f} ms", f"{arithmetic / reading:.0f}"))
    return _table(header, rows)


def tables() -> list[str]:
    """Every table of docs/performance.md that is derived, not measured."""
    large = PHOTOS[-1]
    each = (
        stage_table("one crop", ONE_CROP),
        photo_table(),
        stage_table(f"{large[0]} x {large[1]}, stride {STRIDE}, reuse", photo_grid(*large)),
        time_table(),
    )
    return ["\n".join(table) for table in each]


if __name__ == "__main__":
    print("\n\n".join(tables()))
