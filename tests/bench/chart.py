"""A drawing of what calls cost against the number of memories, one panel a call."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import log10

COLOURS = ("#6b7280", "#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Told apart without green and red; the first is what the others are measured by."""
WIDTH, HEIGHT, LEFT, TOP, GAP = 210, 190, 54, 46, 62


@dataclass(frozen=True)
class Figure:
    """What a store's call cost at a size."""

    size: int
    store: str
    call: str
    microseconds: float
    of_raw: tuple[float, float, float]
    """The median, least and greatest ratio of the rounds."""
    client_cpu: float
    """Microseconds, as of the backend; of that, 0 where it cannot be read."""
    backend_cpu: float
    round_trips: int
    wal_bytes: int


def drawn(figures: Iterable[Figure]) -> str:
    """An SVG: microseconds a call, upwards, against memories, both by powers of ten."""
    figures = list(figures)
    calls = list(dict.fromkeys(f.call for f in figures))
    stores = dict(zip(dict.fromkeys(f.store for f in figures), COLOURS, strict=False))
    sizes = sorted({f.size for f in figures})
    low = 10 ** int(log10(min(f.microseconds for f in figures)))
    high = 10 ** (int(log10(max(f.microseconds for f in figures))) + 1)

    def x(size: int) -> float:
        span = log10(sizes[-1] / sizes[0]) or 1
        return WIDTH * log10(size / sizes[0]) / span

    def y(microseconds: float) -> float:
        return HEIGHT * (1 - log10(microseconds / low) / log10(high / low))

    whole_width, whole_height = LEFT + len(calls) * (WIDTH + GAP), TOP + HEIGHT + 62
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole_width} {whole_height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#374151">',
        "<title>Time of a call against the number of memories</title>",
        f'<rect width="{whole_width}" height="{whole_height}" fill="#fff"/>',
    ]
    for place, call in enumerate(calls):
        parts.append(f'<g transform="translate({LEFT + place * (WIDTH + GAP)} {TOP})">')
        parts.append(f'<text x="0" y="-12" font-weight="600">{call}</text>')
        step = low
        while step <= high:
            name = f"{step // 1000:,} ms" if step >= 1000 else f"{step} us"
            parts.append(
                f'<path d="M0 {y(step):.1f}H{WIDTH}" stroke="#e5e7eb"/>'
                f'<text x="-6" y="{y(step) + 4:.1f}" text-anchor="end" font-size="10">{name}</text>'
            )
            step *= 10
        parts += [
            f'<text x="{x(size):.1f}" y="{HEIGHT + 16}" text-anchor="middle" font-size="10">'
            f"{size:,}</text>"
            for size in sizes
        ]
        for store, colour in stores.items():
            points = [
                (x(f.size), y(f.microseconds))
                for f in figures
                if (f.call, f.store) == (call, store)
            ]
            line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
            parts += [
                f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}"/>' for a, b in points
            ]
        parts.append("</g>")
    for place, (store, colour) in enumerate(stores.items()):
        left = LEFT + place * 130
        parts.append(
            f'<circle cx="{left}" cy="{whole_height - 18}" r="5" fill="{colour}"/>'
            f'<text x="{left + 10}" y="{whole_height - 14}">{store}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
