"""A text with every token on the colour of its depth."""

from html import escape

from builders.report.data import TokenDepths

# Few backbone layers to many: pale river to deep blue.
COLOURS = ((226, 244, 242), (128, 203, 205), (47, 131, 184), (23, 42, 99))
CONTRAST = 0.75  # below 1: most tokens are shallow, so more colours go to them
WHITE_TEXT_BELOW = 0.45  # of luminance


def depth_colour(share: float) -> tuple[int, int, int]:
    """RGB of a share 0..1 of the layers."""
    place = min(max(share, 0.0), 1.0) ** CONTRAST * (len(COLOURS) - 1)
    index = min(int(place), len(COLOURS) - 2)
    pairs = zip(COLOURS[index], COLOURS[index + 1], strict=True)
    red, green, blue = (round(a + (b - a) * (place - index)) for a, b in pairs)
    return red, green, blue


def sample_html(sample: TokenDepths, num_layers: int) -> str:
    """The scale, then the text. Every token says its depth under the pointer."""
    deepest = max(sample.backbone_layers)
    shallowest = min(sample.backbone_layers)
    spans: list[str] = []
    for token, exit_layer, depth in zip(
        sample.tokens, sample.exit_layers, sample.backbone_layers, strict=True
    ):
        if not spans:
            token = token.lstrip()  # blanks at the start would be colours without a text
        if not token:  # it is what begins every text, or half a character
            continue
        share = (depth - shallowest) / max(deepest - shallowest, 1)
        rgb = depth_colour(share)
        spans.append(
            f'<span style="background:rgb{rgb};color:{_text_colour(rgb)}" '
            f'title="exit after layer {exit_layer} of {num_layers}; {depth} backbone layers">'
            f"{escape(token)}</span>"
        )
    stops = ", ".join(f"rgb{depth_colour(step / 8)}" for step in range(9))
    return (
        f'<div class="scale"><span>{shallowest} backbone layers</span>'
        f'<div style="background:linear-gradient(90deg, {stops})"></div>'
        f"<span>{deepest}</span></div>"
        f'<div class="sample">{"".join(spans)}</div>'
    )


def _text_colour(rgb: tuple[int, int, int]) -> str:
    red, green, blue = (value / 255 for value in rgb)
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < WHITE_TEXT_BELOW
    return "#fff" if dark else "#16242f"
