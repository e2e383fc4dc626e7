"""A plot as inline SVG: scales, axes, and marks in data coordinates. Colours are the page's CSS."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

TICK_STEPS = (1, 2, 2.5, 5, 10)  # times a power of ten
LEFT, RIGHT, TOP, BOTTOM = 60, 16, 14, 44  # margins in px

CHARACTER, ABOVE, BELOW = 7.0, 11.0, 4.0  # px, about: a note's character, and it from its line
AWAY = 9.0  # px from a dot to its name

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # px: left, top, right, bottom


@dataclass(slots=True)
class Plot:
    """Marks are drawn in the order they are added."""

    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_label: str
    y_label: str
    title: str  # for readers that cannot see it
    x_ticks: Sequence[float] = ()
    y_ticks: Sequence[float] = ()
    marks: list[str] = field(default_factory=list)
    taken: list[Box] = field(default_factory=list)  # by dots and names

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - BOTTOM - (value - low) / (high - low) * (self.height - TOP - BOTTOM)

    def add(self, element: str) -> None:
        self.marks.append(element)

    def line(self, points: Sequence[Point], style: str) -> None:
        self.add(f'<polyline class="line {style}" points="{self._path(points)}"/>')

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float]) -> None:
        outline = [*zip(xs, high, strict=True), *reversed(list(zip(xs, low, strict=True)))]
        self.add(f'<polygon class="band" points="{self._path(outline)}"/>')

    def dot(self, at: Point, style: str, tip: str, radius: float = 4.5) -> None:
        x, y = self.x(at[0]), self.y(at[1])
        self.taken.append((x - radius, y - radius, x + radius, y + radius))
        self.add(
            f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
            f"<title>{escape(tip)}</title></circle>"
        )

    def whisker(self, x: float, low: float, high: float, style: str) -> None:
        self.add(
            f'<line class="whisker {style}" x1="{self.x(x):.1f}" x2="{self.x(x):.1f}" '
            f'y1="{self.y(low):.1f}" y2="{self.y(high):.1f}"/>'
        )

    def column(self, x: float, width: float, style: str, tip: str) -> None:
        """A stripe from top to bottom, `width` in data units."""
        left, right = self.x(x - width / 2), self.x(x + width / 2)
        self.add(
            f'<rect class="{style}" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
            f'height="{self.height - TOP - BOTTOM}"><title>{escape(tip)}</title></rect>'
        )

    def note(self, centre: Point, content: str, style: str = "") -> None:
        """Text about a point given in px, moved so far that it stays inside the plot."""
        left, top, right, _ = self._box(centre, content)
        self.add(
            f'<text class="note {style}" x="{(left + right) / 2:.1f}" y="{top + ABOVE:.1f}" '
            f'text-anchor="middle">{escape(content)}</text>'
        )

    def name(self, content: str, places: Sequence[Point], style: str = "") -> None:
        """A note at the place, given in px, that covers least of dots and names drawn before."""
        boxes = [self._box(place, content) for place in places]
        covered = [sum(_overlap(box, other) for other in self.taken) for box in boxes]
        best = covered.index(min(covered))
        self.taken.append(boxes[best])
        self.note(places[best], content, style)

    def name_dot(self, at: Point, content: str, style: str = "") -> None:
        """Beside it, above or below, wherever there is room. After all dots were drawn."""
        x, y, half = self.x(at[0]), self.y(at[1]), len(content) * CHARACTER / 2
        beside = [(x + side * (AWAY + half), y + 4) for side in (1, -1)]
        rows = [y - AWAY - 2, y + AWAY + ABOVE, y - 26, y + 37, y - 43, y + 54]
        slanted = [(x + side * half, row) for row in rows for side in (0, 1, -1)]
        self.name(content, [*beside, *slanted], style)

    def render(self, css_class: str = "") -> str:
        # An inner svg cuts off what lies below the axis.
        clip = f'<svg width="{self.width}" height="{self.height - BOTTOM + 6}">'
        body = "\n".join([*self._axes(), clip, *self.marks, "</svg>"])
        return (
            f'<svg class="plot {css_class}" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title)}" style="max-width:{self.width}px">\n{body}\n</svg>'
        )

    def _box(self, centre: Point, content: str) -> Box:
        """Of a note: inside the plot, however near to its edge the centre is."""
        half = len(content) * CHARACTER / 2
        x = max(min(centre[0], self.width - RIGHT - half), LEFT + 6 + half)
        y = max(min(centre[1], self.height - BOTTOM - BELOW), TOP + ABOVE)
        return x - half, y - ABOVE, x + half, y + BELOW

    def _path(self, points: Sequence[Point]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)

    def _axes(self) -> list[str]:
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        parts = []
        for tick in self.y_ticks:
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(
                f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">'
                f"{tick:g}</text>"
            )
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        for tick in self.x_ticks:
            parts.append(
                f'<text class="tick" x="{self.x(tick):.1f}" y="{bottom + 17}" '
                f'text-anchor="middle">{tick:g}</text>'
            )
        middle = (LEFT + right) / 2
        parts.append(
            f'<text class="label" x="{middle:.1f}" y="{self.height - 6}" text-anchor="middle">'
            f"{escape(self.x_label)}</text>"
        )
        y = (TOP + bottom) / 2
        parts.append(
            f'<text class="label" x="13" y="{y:.1f}" text-anchor="middle" '
            f'transform="rotate(-90 13 {y:.1f})">{escape(self.y_label)}</text>'
        )
        return parts


def _overlap(one: Box, other: Box) -> float:
    """The area that both have, px."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within low..high, about that many."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(step * power for step in TICK_STEPS if step * power >= rough * 0.999)
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    # + 0.0: no tick reads -0
    return [float(np.round(n * step, 10)) + 0.0 for n in np.arange(first, last + 1)]


def layer_ticks(num_layers: int, about: int = 7) -> list[float]:
    """1, then round layer numbers, then the last layer."""
    inner = [t for t in ticks(0, num_layers, about) if t == int(t) and 1 < t < num_layers]
    step = inner[0] if inner else 1.0
    kept = [t for t in inner if num_layers - t >= step / 2]
    return [1.0, *kept, float(num_layers)] if num_layers > 1 else [1.0]
