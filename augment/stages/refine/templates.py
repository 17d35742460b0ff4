"""Prompts without a model: the caption with a setting that fits it, a light and a camera."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from augment.artifacts import Prompt
from augment.imaging.light import LIGHTS, Kind, Light, without_lights
from augment.stages.refine import Refiner
from augment.stages.text import class_pattern, class_words, clip_tokens, cut

_NEGATIVE = "people, text, watermark, logo, frame, collage, drawing, blurry, low quality, jpeg artifacts, deformed"
_MOST_TOKENS = 59  # of CLIP's 75, because the count is an estimate and nothing of the light may be lost
_CAMERAS = (
    "wide shot at eye level, natural photograph",
    "35 mm photograph, shallow depth of field",
    "photograph from a low viewpoint, sharp foreground",
    "50 mm photograph, deep focus",
    "candid snapshot, slight film grain",
    "photograph from a slightly raised viewpoint",
)


@dataclass(frozen=True)
class _Place:
    """A kind of place: words in a caption that speak of it, colors that suggest it, and settings it may have."""

    things: str
    colors: str
    settings: tuple[str, ...]
    kind: Kind = "outdoor"


_PLACES = (
    _Place(
        r"grass\w*|lawn|meadow|fields?|pasture|park|garden|yard|hills?",
        r"green|olive",
        (
            "long meadow grass",
            "a mown lawn with a hedge",
            "a grassy slope with clover",
            "open pasture with a far tree line",
        ),
    ),
    _Place(
        r"forest|woods?|woodland|trees?|jungle|bush(?:es)?|branch(?:es)?",
        r"green|dark brown",
        ("ferns between old trunks", "a mossy forest floor", "birches and undergrowth", "a clearing with fallen logs"),
    ),
    _Place(
        r"sea|ocean|lake|river|water|pond|harbou?r|boats?|waves?|pool",
        r"blue|teal|turquoise",
        ("calm open water", "a lake shore with reeds", "small waves against rocks", "a quiet bay with far hills"),
    ),
    _Place(
        r"beach|sand\w*|dunes?|desert|shore",
        r"beige|cream|yellow",
        ("wet sand with shells", "low dunes with sparse grass", "rippled dry sand", "a pebble bank"),
    ),
    _Place(
        r"soil|mud\w*|dirt|leaves|farm|barn|autumn|fall",
        r"brown|orange|beige",
        ("bare earth with dry stalks", "a bed of fallen leaves", "a stubble field", "a rutted farm track"),
    ),
    _Place(
        r"rocks?|rocky|mountains?|cliffs?|gravel|stones?|canyon",
        r"grey|black",
        ("weathered rock with lichen", "a gravel bank", "a boulder slope", "slate slabs"),
    ),
    _Place(
        r"streets?|roads?|city|town|buildings?|cars?|sidewalk|pavement|bridge|traffic|station|airport|runway|parking",
        r"grey|red",
        ("a paved square", "a quiet side street", "an asphalt yard with a brick wall", "a concrete embankment"),
    ),
    _Place(
        r"snow\w*|ic[ey]|ski\w*|frost\w*|glacier",
        r"white|pale grey|pale blue",
        ("fresh snow with tracks", "a frosted field", "a snowy clearing", "wind-packed snow"),
    ),
    _Place(
        r"sky|skies|clouds?|airplanes?|planes?|kites?",
        r"pale blue|blue",
        ("a wide sky over low hills", "high thin clouds", "a flat horizon under open sky", "broken clouds"),
    ),
    _Place(
        r"flowers?|blossoms?|petals?|plants?|pot(?:ted)?|leaf",
        r"pink|purple|lilac|red|yellow",
        ("wild flowers in bloom", "a heather moor", "a flower bed with gravel edging", "a blossoming hedge"),
    ),
    _Place(
        r"rooms?|kitchen|tables?|desk|floor|walls?|bed|bedroom|sofa|couch|shel(?:f|ves)|indoors?|inside|counter|bathroom|office"
        r"|chairs?|plates?|bowls?|carpet|rug|hall|shop|store|garage|workshop|laboratory|factory|museum|toilet|sink|tiles?",
        r"brown|beige|cream|white",
        ("a plank floor and a plain wall", "a worn wooden bench", "a tiled floor", "a workshop with blurred shelves"),
        "indoor",
    ),
)
_ANYWHERE = _Place(
    "",
    "",
    ("an empty level ground", "a plain textured surface", "a quiet open place", "a simple uncluttered backdrop"),
    "any",
)

_COLOR_NAMES = (
    r"\b(?:(?:dark|pale) )?(?:grey blue|black|white|grey|cream|beige|brown|red|pink|orange|yellow|olive|green|teal"
    r"|turquoise|blue|purple|lilac)\b"
)
_COLOR = re.compile(_COLOR_NAMES)
_TEXTURE = re.compile(r"(?:smooth|faint|moderate|rich|busy) (?:coarse |fine )?texture(?: of \w+ lines)?")
# A caption of the measured captioner: it names no things, and its words for the light are not lights.
_MEASURED = re.compile(rf"^an? (?:[\w ]+ )?{_COLOR_NAMES}[\w ]* (?:lower part|right side|scene),.*\btexture\b")
_BEFORE_PLACE = re.compile(
    r"^.*?\b(?:next to|in front of|on top of|on|in|at|near|beside|by|under|against|over|along|through|across|behind"
    r"|inside)\s+(?=\w)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Scene:
    """What a variant's prompt is made of."""

    caption: str  # without the object's class and without lights; "" if nothing else was said
    setting: str
    light: Light
    camera: str

    @property
    def text(self) -> str:
        """The prompt; the caption is cut if all of it would be more than a text encoder takes."""
        rest = ", ".join((self.setting, self.light.phrase, self.camera))
        said = cut(self.caption, _MOST_TOKENS - clip_tokens(rest) - 1)
        return f"{said}, {rest}" if said else rest


@dataclass(frozen=True)
class Templates(Refiner):
    """Joins what the caption says about the place with a setting that fits it, a named light and a camera.

    Variants that share their image's seed use every light that fits before one is repeated with another setting, and
    no prompt is repeated before all that fit are used up.
    """

    backend: ClassVar[str] = "templates"
    parallel: ClassVar[bool] = True

    def __call__(
        self,
        *,
        captions: Sequence[str],
        groups: Sequence[str | None],
        variants: Sequence[int],
        seeds: Sequence[int],
        **_: Any,
    ) -> list[Prompt]:
        """One prompt for each caption; see `Refiner`."""
        return [
            Prompt(plan(caption, group, variant, seed).text, negative(group))
            for caption, group, variant, seed in zip(captions, groups, variants, seeds, strict=True)
        ]


def negative(group: str | None) -> str:
    """What a background must not show: the object's class, if it is known, and the usual faults."""
    name = class_words(group)
    return f"{name}, {_NEGATIVE}" if name else _NEGATIVE


def plan(caption: str, group: str | None, variant: int, seed: int) -> Scene:
    """The scene of one variant. Deterministic; the seed draws the order in which lights, settings and cameras come."""
    places = _places(caption)
    kinds = {place.kind for place in places}
    lights = [light for light in LIGHTS if any(_fits(light.kind, kind) for kind in kinds)]
    rng = np.random.default_rng(seed)
    turn, place_in_turn = divmod(variant, len(lights))
    light = lights[rng.permutation(len(lights))[place_in_turn]]
    settings = [setting for place in places if _fits(light.kind, place.kind) for setting in place.settings]
    named = class_pattern(group)
    settings = [setting for setting in settings if not (named and named.search(setting))] or list(_ANYWHERE.settings)
    settings = [settings[n] for n in rng.permutation(len(settings))]
    # Each turn through the lights moves every light on to its next setting, and at last to its next camera.
    setting = settings[(place_in_turn + turn) % len(settings)]
    first_camera = int(rng.integers(len(_CAMERAS)))
    camera = _CAMERAS[(first_camera + place_in_turn + turn // len(settings)) % len(_CAMERAS)]
    if _MEASURED.match(caption):
        return Scene("", f"{setting} in {_measured(caption)}", light, camera)
    return Scene(_said(caption, group), setting, light, camera)


def _places(caption: str) -> list[_Place]:
    """The places that a caption speaks of by things, else those that its colors suggest, else anywhere."""
    if not _MEASURED.match(caption):
        found = [place for place in _PLACES if re.search(rf"\b(?:{place.things})\b", caption, re.IGNORECASE)]
        if found:
            return found
    colors = " ".join(_COLOR.findall(caption.lower()))
    found = [place for place in _PLACES if re.search(rf"\b(?:{place.colors})\b", colors)]
    if re.search("green|olive|blue", colors):  # plants, sky or water
        found = [place for place in found if place.kind != "indoor"]
    return found or [_ANYWHERE]


def _fits(light: Kind, place: Kind) -> bool:
    return light == place or "any" in (light, place)


def _measured(caption: str) -> str:
    """A measured caption's colors and texture: "brown and pale grey tones, rich texture"."""
    *most, last = dict.fromkeys(_COLOR.findall(caption))
    texture = _TEXTURE.search(caption)
    colors = f"{', '.join(most)} and {last}" if most else last
    return f"{colors} tones, {texture[0]}" if texture else f"{colors} tones"


def _said(caption: str, group: str | None) -> str:
    """What the caption says about the place, without lights (the variant brings its own) and the object's class."""
    text = without_lights(caption.strip().rstrip("."))
    named = class_pattern(group)
    if named is None or not named.search(text):
        return text
    clauses = [clause.strip() for clause in re.split(r"[,.;]", text)]
    # "a dog sitting on a beach" is, without the dog, "a beach".
    kept = [clause if not named.search(clause) else _after(clause, named) for clause in clauses]
    return ", ".join(clause for clause in kept if clause and not named.search(clause))


def _after(clause: str, named: re.Pattern[str]) -> str:
    """What follows the class's name in a clause, from the first place in it; "" if there is none."""
    match = named.search(clause)
    rest = clause[match.end() :] if match else ""
    place = _BEFORE_PLACE.match(rest)
    return rest[place.end() :] if place else ""
