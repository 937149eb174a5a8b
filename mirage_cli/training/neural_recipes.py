"""Recipes of the painterly looks: look -> steps, see ``neural_ops.py`` for each operation.

Numbers in "styles" are those of multistyle26 (styles26.json describes them) and mix by weight;
names are paintings, "name:x0,y0,x1,y1" a part of one. "scale" paints on a larger picture, which
makes strokes finer. Chosen by eye on photos of people, buildings, landscapes, a cartoon and a game.
"""

from __future__ import annotations


def _(op: str, **settings: object) -> dict:
    return {"op": op, **settings}


_WHEAT = "van_gogh_wheat_field_with_cypresses"
_KISS = "klimt_kiss:0.25,0.1,0.75,0.9"
_TURNER = "turner_wreck_of_minotaur:0.3,0.1,1,0.9"

RECIPES: dict[str, list[dict]] = {
    "oil-painting": [
        _("paint", styles={"25": 1, "5": 1}, scale=1.25), _("save", name="strokes"),
        _("kuwahara", radius=4, source="photo"),
        _("emboss", source="strokes", amount=0.55),
        _("levels", gamma=1.1, saturation=1.35), _("detail", amount=0.4), _("sharpen", amount=0.5),
    ],
    "starry-night": [
        _("contours", amount=0.1, bands=2.5, fine=5),
        _("paint", styles={"19": 1}), _("structure", keep=0.6),
        _("palette", painting="van_gogh_starry_night", light=0.4, colour=0.7),
    ],
    "watercolour": [
        _("paint", styles={"14": 0.7, "8": 0.3}), _("save", name="lines"),
        _("kuwahara", radius=4, source="photo"), _("mix", other="lines", weight=0.5),
        _("chroma", keep=0.85, gain=1.35, smooth=6), _("levels", low=0.0, high=0.95),
        _("wash_edges", amount=0.9), _("emboss", source="lines", amount=0.4),
    ],
    "great-wave": [
        _("paint", styles={"24": 1}, scale=1.25), _("save", name="print"),
        _("kuwahara", radius=3, source="photo"), _("mix", other="print", weight=0.5),
        _("stretch", mean=0.64, std=0.22),
        _("ramp", stops=[[0.1, 0.05, 0.11, 0.25], [0.38, 0.15, 0.32, 0.5], [0.6, 0.55, 0.69, 0.72],
                         [0.78, 0.93, 0.89, 0.78]], warm=[0.85, 0.62, 0.38], warm_amount=0.6),
        _("emboss", source="print", amount=0.4),
        _("lines", amount=0.9, radius=1.0, threshold=0.004, gain=40, colour=[0.04, 0.08, 0.18]),
    ],
    "the-scream": [
        _("contours", amount=0.08, bands=2.0), _("save", name="waves"),
        _("paint", styles={"5": 1}), _("structure", keep=0.5), _("save", name="strokes"),
        _("transfer", styles={"munch_scream:0,0,1,0.5": 1}, source="waves"),
        _("mix", other="strokes", weight=0.5), _("emboss", source="strokes", amount=0.4),
        _("palette", painting="munch_scream", light=0.4, colour=0.7), _("detail", amount=0.4),
    ],
    "impressionist": [
        _("contours", amount=0.04),
        _("paint", styles={"12": 0.5, "0": 0.25, "25": 0.25}, scale=1.25), _("structure", keep=0.5),
        _("chroma", keep=0.6, gain=1.6, smooth=5), _("levels", gamma=0.85), _("detail", amount=0.3),
        _("sharpen", amount=0.4),
    ],
    "stained-glass": [
        _("paint", styles={"15": 1}, scale=0.8), _("save", name="cells"),
        _("kuwahara", radius=6, source="photo"), _("stretch", mean=0.62, std=0.18),
        _("levels", saturation=2.2),
        _("ink", source="cells", low=0.35, high=0.8, colour=[0.03, 0.03, 0.04]),
        _("emboss", source="cells", amount=0.3),
    ],
    "mosaic": [
        _("kuwahara", radius=3), _("save", name="flat"),
        _("paint", styles={"9": 1}, scale=1.4), _("save", name="chips"),
        _("load", name="flat"), _("stretch", mean=0.5, std=0.22, keep=0.6), _("levels", saturation=1.9),
        _("ink", source="chips", low=0.82, high=0.6, colour=[0.93, 0.9, 0.82], amount=0.85),
    ],
    "ink-wash": [
        _("kuwahara", radius=3), _("save", name="flat"), _("paint", styles={"2": 0.7, "23": 0.3}),
        _("structure", keep=0.5), _("stretch", mean=0.7, std=0.24),
        _("ramp", stops=[[0.1, 0.05, 0.05, 0.07], [0.5, 0.45, 0.45, 0.46], [0.9, 0.96, 0.945, 0.91]]),
        _("sharpen", amount=0.4),
    ],
    "van-gogh-wheatfield": [
        _("contours", amount=0.08, bands=2.0), _("save", name="waves"),
        _("paint", styles={"19": 0.5, "0": 0.5}, scale=1.1), _("save", name="strokes"),
        _("transfer", styles={_WHEAT: 0.6, _WHEAT + ":0,0.4,0.6,1": 0.4}, source="waves"),
        _("emboss", source="strokes", amount=0.7),
        _("palette", painting=_WHEAT, light=0.3, colour=0.7),
    ],
    "the-kiss": [
        _("paint", styles={"9": 0.6, "25": 0.4}, scale=1.2), _("save", name="leaf"),
        _("transfer", styles={"klimt_kiss:0.25,0.2,0.75,0.9": 1}, source="photo"),
        _("structure", keep=0.4), _("emboss", source="leaf", amount=0.7),
        _("palette", painting=_KISS, light=0.6, colour=0.8), _("levels", saturation=1.1),
    ],
    "gauguin": [
        _("kuwahara", radius=5), _("paint", styles={"22": 0.5, "13": 0.5}), _("structure", keep=0.7),
        _("chroma", keep=0.6, gain=1.8, smooth=5),
        _("palette", painting="gauguin_three_tahitians", light=0.5, colour=0.8),
        _("levels", saturation=1.2),
    ],
    "turner-seascape": [
        _("transfer", styles={"turner_wreck_of_minotaur:0.2,0,1,0.7": 1}), _("save", name="glow"),
        _("paint", styles={"23": 0.6, "12": 0.4}, source="photo"), _("mix", other="glow", weight=0.4),
        _("structure", keep=0.5), _("palette", painting=_TURNER, light=0.5, colour=0.8),
        _("levels", gamma=0.75, saturation=1.2),
    ],
    "cubism": [
        _("paint", styles={"22": 0.5, "1": 0.2, "4": 0.3}, scale=0.85), _("structure", keep=0.7),
        _("chroma", keep=0.25, gain=1.3, smooth=6), _("local_contrast", amount=0.4),
    ],
    "pastel-haze": [
        _("contours", amount=0.04), _("paint", styles={"12": 0.8, "14": 0.2}, scale=1.2),
        _("structure", keep=0.5), _("chroma", keep=0.25, gain=1.2, smooth=8),
        _("levels", low=-0.2, gamma=0.85, saturation=1.1), _("detail", amount=0.3),
    ],
}
