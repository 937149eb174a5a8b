"""Recipes of the painterly looks: look -> steps, see ``neural_ops.py`` for each operation.

Numbers in "styles" are those of multistyle26 (styles26.json describes them) and mix by weight;
names are paintings, "name:x0,y0,x1,y1" a part of one. "scale" paints on a larger picture, which
makes strokes finer. Chosen by eye on photos of people, buildings, landscapes, a cartoon and a game.
"""

from __future__ import annotations


def _(op: str, **settings: object) -> dict:
    return {"op": op, **settings}


_WHEAT = "van_gogh_wheat_field_with_cypresses"
_STARRY = "van_gogh_starry_night:0.1,0,1,0.7"
_INDIGO = [[0.12, 0.05, 0.11, 0.25], [0.36, 0.14, 0.3, 0.48], [0.56, 0.5, 0.66, 0.7], [0.74, 0.93, 0.89, 0.78]]
_INK = [[0.2, 0.06, 0.06, 0.08], [0.55, 0.45, 0.45, 0.46], [0.85, 0.96, 0.945, 0.91]]

RECIPES: dict[str, list[dict]] = {
    # relief of impasto styles over flat dabs in the photo's own colours
    "oil-painting": [
        _("paint", styles={"25": 1, "5": 1}, scale=1.25),
        _("save", name="strokes"),
        _("kuwahara", radius=4, source="photo"),
        _("emboss", source="strokes", amount=0.5),
        _("stretch", mean=0.56, std=0.2, keep=0.5),
        _("levels", saturation=1.45),
        _("detail", amount=0.3),
        _("flow", length=5, sharpen=0.8),
        _("detail", amount=0.3, radius=2),
    ],
    # lines of equal light make the strokes swirl round bright and dark places
    "starry-night": [
        _("contours", amount=0.08, bands=2.0, fine=7, coarse=60),
        _("save", name="swirls"),
        _("transfer", styles={_STARRY: 1}),
        _("save", name="tones"),
        _("paint", styles={"19": 1}, scale=1.15, source="swirls"),
        _("mix", other="tones", weight=0.3),
        _("structure", keep=0.5),
        _("palette", painting=_STARRY, light=0.4, colour=0.8),
        _("detail", amount=0.5),
        _("flow", length=8, sigma=3, sharpen=1.0),
        _("levels", saturation=1.2),
        _("detail", amount=0.6, radius=2.5),
    ],
    # light washes of the photo's colours, pigment at their borders, thin drawn lines
    "watercolour": [
        _("paint", styles={"14": 0.7, "8": 0.3}),
        _("save", name="lines"),
        _("kuwahara", radius=5, source="photo"),
        _("stretch", mean=0.74, std=0.17, keep=0.6),
        _("mix", other="lines", weight=0.4),
        _("chroma", keep=0.9, gain=1.5, smooth=6),
        _("levels", low=0.0, high=0.93),
        _("wash_edges", amount=1.4, radius=2.5),
        _("emboss", source="lines", amount=0.45),
        _("flow", length=3, sharpen=0.6),
    ],
    # tones pressed into indigo, pale blue, cream and tan; contours and the print's own hatching
    "great-wave": [
        _("paint", styles={"24": 1}, scale=1.25),
        _("flow", length=3, sharpen=0.5),
        _("save", name="print"),
        _("kuwahara", radius=3, source="photo"),
        _("mix", other="print", weight=0.4),
        _("stretch", mean=0.58, std=0.22),
        _("ramp", stops=_INDIGO, warm=[0.87, 0.64, 0.4], warm_amount=0.8),
        _("emboss", source="print", amount=0.35),
        _("lines", amount=0.9, radius=1.0, threshold=0.004, gain=40, colour=[0.04, 0.08, 0.18]),
    ],
    # the sky of the painting, laid along lines of equal light
    "the-scream": [
        _("contours", amount=0.07, bands=1.5, fine=9, coarse=60),
        _("transfer", styles={"munch_scream:0,0,1,0.5": 0.6, "munch_scream": 0.4}),
        _("structure", keep=0.7),
        _("palette", painting="munch_scream:0,0,1,0.5", light=0.5, colour=0.6),
        _("detail", amount=0.6),
        _("flow", length=10, sigma=3, sharpen=1.0),
        _("levels", saturation=1.2),
        _("detail", amount=0.6, radius=2.5),
    ],
    "impressionist": [
        _("transfer", styles={"van_gogh_olive_trees:0,0,1,0.45": 0.6, "van_gogh_olive_trees": 0.4}),
        _("save", name="tones"),
        _("paint", styles={"25": 0.5, "12": 0.5}, scale=1.4, source="photo"),
        _("save", name="dabs"),
        _("load", name="tones"),
        _("emboss", source="dabs", amount=0.6, radius=5),
        _("chroma", keep=0.75, gain=1.8, smooth=4),
        _("stretch", mean=0.66, std=0.19, keep=0.7),
        _("flow", length=5, sharpen=0.9),
        _("detail", amount=0.3, radius=2),
    ],
    # the net's leading over flat, strongly coloured cells; grey ones borrow the net's hues
    "stained-glass": [
        _("paint", styles={"15": 1}, scale=0.8),
        _("flow", length=3, sharpen=0.5),
        _("save", name="cells"),
        _("kuwahara", radius=6, source="photo"),
        _("stretch", mean=0.62, std=0.18),
        _("tint", source="cells", amount=3.0, smooth=5),
        _("levels", saturation=2.2),
        _("ink", source="cells", low=0.35, high=0.78, colour=[0.03, 0.03, 0.04]),
        _("emboss", source="cells", amount=0.3),
    ],
    "ink-wash": [
        _("kuwahara", radius=5),
        _("stretch", mean=0.78, std=0.16),
        _("save", name="flat"),
        _("paint", styles={"2": 0.6, "14": 0.4}, scale=1.1, source="photo"),
        _("save", name="strokes"),
        _("load", name="flat"),
        _("emboss", source="strokes", amount=0.9, radius=10, limit=0.4),
        _("ramp", stops=_INK),
        _("wash_edges", amount=1.5),
        _("flow", length=4, sharpen=0.6),
    ],
    "van-gogh-wheatfield": [
        _("contours", amount=0.06, bands=2.0),
        _("save", name="waves"),
        _("paint", styles={"19": 0.5, "0": 0.5}, scale=1.2),
        _("save", name="strokes"),
        _("transfer", styles={_WHEAT: 0.6, _WHEAT + ":0,0.4,0.6,1": 0.4}, source="waves"),
        _("emboss", source="strokes", amount=0.6),
        _("chroma", keep=0.3, gain=1.4, smooth=5),
        _("palette", painting=_WHEAT, light=0.4, colour=0.7),
        _("detail", amount=0.4),
        _("flow", length=7, sharpen=0.8),
        _("levels", saturation=1.3),
        _("detail", amount=0.3, radius=2),
    ],
    "the-kiss": [
        _("paint", styles={"9": 0.6, "25": 0.4}, scale=1.3),
        _("save", name="leaf"),
        _("transfer", styles={"klimt_kiss:0.25,0.2,0.75,0.9": 1}, source="photo"),
        _("structure", keep=0.6),
        _("chroma", keep=0.15, gain=1.3, smooth=5),
        _("emboss", source="leaf", amount=0.5, radius=6),
        _("palette", painting="klimt_kiss:0.25,0.1,0.75,0.9", light=0.55, colour=0.75),
        _("detail", amount=0.5),
        _("flow", length=3, sharpen=0.7),
    ],
    "gauguin": [
        _("kuwahara", radius=4),
        _("save", name="flat"),
        _("paint", styles={"22": 0.5, "13": 0.5}, scale=1.25),
        _("structure", keep=0.8),
        _("mix", other="flat", weight=0.3),
        _("chroma", keep=0.6, gain=1.9, smooth=5),
        _("palette", painting="gauguin_three_tahitians", light=0.5, colour=0.8),
        _("detail", amount=0.5),
        _("flow", length=5, sharpen=0.8),
        _("levels", saturation=1.35),
        _("detail", amount=0.3, radius=2),
    ],
    "turner-seascape": [
        _("transfer", styles={"turner_wreck_of_minotaur:0.2,0,1,0.7": 1}),
        _("save", name="glow"),
        _("paint", styles={"23": 0.5, "12": 0.5}, source="photo"),
        _("mix", other="glow", weight=0.4),
        _("structure", keep=0.6),
        _("palette", painting="turner_wreck_of_minotaur:0.35,0.2,1,0.7", light=0.4, colour=0.9),
        _("chroma", keep=0.2, gain=1.2, smooth=8),
        _("stretch", mean=0.66, std=0.2),
        _(
            "ramp",
            stops=[[0.15, 0.1, 0.16, 0.24], [0.45, 0.36, 0.46, 0.52], [0.68, 0.93, 0.72, 0.38], [0.9, 1.0, 0.95, 0.8]],
            keep=0.4,
        ),
        _("levels", saturation=1.4),
        _("detail", amount=0.4),
        _("flow", length=5, sharpen=0.7),
    ],
    "cubism": [
        _("paint", styles={"22": 0.5, "1": 0.2, "4": 0.3}),
        _("structure", keep=0.7),
        _("chroma", keep=0.35, gain=1.5, smooth=6),
        _("local_contrast", amount=0.4),
        _("detail", amount=0.3),
        _("levels", saturation=1.2),
        _("flow", length=4, sharpen=0.7),
    ],
    "pastel-haze": [
        _("paint", styles={"12": 0.8, "14": 0.2}, scale=1.2),
        _("structure", keep=0.5),
        _("chroma", keep=0.4, gain=1.4, smooth=8),
        _("levels", low=-0.2, gamma=0.85, saturation=1.3),
        _("detail", amount=0.35),
        _("flow", length=5, sharpen=0.6),
    ],
}
