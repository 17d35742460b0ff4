"""Prompts without a model: the caption with surroundings that fit it, a light, and what such a picture is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from augment.artifacts import Prompt
from augment.imaging.light import Kind, Light, without_lights
from augment.stages.refine.domains import Domain, Place
from augment.stages.refine.worded import Worded, joined
from augment.stages.text import class_pattern, clip_tokens, cut

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
# "a close up of a microscope showing a small amount of water" is, without the instrument, "a small amount of water".
_INSTRUMENT = re.compile(
    r"^.*\b(?:microscope|camera|scanner|machine|screen|monitor|endoscope|drone)\b[\w ]*?"
    r"\b(?:showing|that shows|displaying|with|of)\s+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Scene:
    """What a variant's prompt is made of."""

    caption: str  # without the object's class and without lights; "" if nothing else was said
    surroundings: str
    light: Light | None
    ending: str
    domain: Domain
    room: int  # tokens

    @property
    def text(self) -> str:
        """The prompt; the caption is cut if all of it would be more than a text encoder takes."""
        rest = joined(self.surroundings, self.light.phrase if self.light else "", self.ending)
        return joined(cut(self.caption, max(0, self.room - clip_tokens(rest) - 1)), rest)


@dataclass(frozen=True)
class Templates(Worded):
    """Joins what the caption says about the picture with surroundings that fit it, a named light, and an ending that
    says what kind of picture it is.

    Variants that share their image's seed use every light that fits before one is repeated with other surroundings,
    and no prompt is repeated before all that fit are used up. Settings are those of `Worded`.
    """

    backend: ClassVar[str] = "templates"
    parallel: ClassVar[bool] = True
    version: ClassVar[int] = 2  # prompts follow the kind of picture

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
            of_scene(self, plan(caption, group, variant, seed, self), group)
            for caption, group, variant, seed in zip(captions, groups, variants, seeds, strict=True)
        ]


def of_scene(words: Worded, scene: Scene, group: str | None, origin: str = "") -> Prompt:
    """The prompt of a scene."""
    return words.prompt(scene.text, group, scene.domain, [scene.light] if scene.light else [], origin)


def plan(caption: str, group: str | None, variant: int, seed: int, words: Worded | None = None) -> Scene:
    """The scene of one variant. Deterministic; the seed draws the order in which lights, surroundings and endings
    come."""
    words = words or Templates()
    domain = words.chosen_domain(caption)
    places = _places(caption, domain)
    lights = _lights(words, domain, places)
    rng = np.random.default_rng(seed)
    turn, place_in_turn = divmod(variant, len(lights))
    light = lights[rng.permutation(len(lights))[place_in_turn]]
    kind: Kind = light.kind if light else "any"
    named = class_pattern(group)
    offered = words.surroundings or [
        one for place in places if _fits(kind, place.light) for one in place.surroundings or domain.surroundings
    ]
    # The user's own words stay even if they name the class.
    fitting = [one for one in offered if words.surroundings or not (named and named.search(one))]
    fitting = fitting or list(domain.surroundings)
    order = rng.permutation(len(fitting))
    # Each turn through the lights moves every light on to its next surroundings, and at last to its next ending.
    surroundings = fitting[order[(place_in_turn + turn) % len(fitting)]]
    endings = next((place.endings for place in places if place.endings), domain.endings)
    first_ending = int(rng.integers(len(endings)))
    ending = endings[(first_ending + place_in_turn + turn // len(fitting)) % len(endings)]
    if _MEASURED.match(caption):
        return Scene("", f"{surroundings} in {_measured(caption)}", light, ending, domain, words.room)
    return Scene(said(caption, group, domain), surroundings, light, ending, domain, words.room)


def _lights(words: Worded, domain: Domain, places: Sequence[Place]) -> list[Light | None]:
    """The lights that fit; `[None]` if there are to be none."""
    if words.lights is not None:
        return [words.table.light(name) for name in words.lights] or [None]
    names = next((place.lights for place in places if place.lights), domain.lights)
    if names:
        return [words.table.lights[name] for name in names]
    photographic = [light for name, light in words.table.lights.items() if name not in words.table.own_lights]
    return [light for light in photographic if any(_fits(light.kind, place.light) for place in places)]


def _places(caption: str, domain: Domain) -> list[Place]:
    """The places of the domain that a caption speaks of by things, else those that its colors suggest, else any."""
    if not _MEASURED.match(caption) or domain.closed:
        found = [place for place in domain.places if place.is_named(caption)]
        if found:
            return found
    colors = " ".join(_COLOR.findall(caption.lower()))
    found = [place for place in domain.places if place.colors and re.search(rf"\b(?:{place.colors})\b", colors)]
    if re.search("green|olive|blue", colors):  # plants, sky or water
        found = [place for place in found if place.light != "indoor"]
    return found or [Place()]


def _fits(light: Kind, place: Kind) -> bool:
    return light == place or "any" in (light, place)


def _measured(caption: str) -> str:
    """A measured caption's colors and texture: "brown and pale grey tones, rich texture"."""
    colors = dict.fromkeys(_COLOR.findall(caption.partition(",")[0]))
    *most, last = colors
    texture = _TEXTURE.search(caption)
    said = f"{', '.join(most)} and {last}" if most else last
    return f"{said} tones, {texture[0]}" if texture else f"{said} tones"


def said(caption: str, group: str | None, domain: Domain) -> str:
    """What the caption says about the picture, without lights (the variant brings its own), the object's class, and
    whatever such a picture cannot show."""
    text = caption.strip().rstrip(".")
    if domain.closed:
        text = _INSTRUMENT.sub("", text)
        clauses = [clause.strip() for clause in re.split(r"[,.;]", text)]
        clauses = [without_lights(clause) if domain.forbids(clause) else clause for clause in clauses]
        text = ", ".join(clause for clause in clauses if clause and not domain.forbids(clause))
    else:
        text = without_lights(text)
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
