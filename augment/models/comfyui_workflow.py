"""A workflow of ComfyUI, as it exports them for its API: which of its inputs are filled in, and with what.

The file maps the id of each node to its class and its inputs. An input is a value, or a link `[id, output]` to another
node.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

from augment.errors import RecipeError

Target: TypeAlias = tuple[str, str]  # a node and one of its inputs

_SEEDS = ("seed", "noise_seed")
_TEXTS = ("text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "prompt")  # inputs of the nodes that encode texts
_VALUES = ("value", "string", "text", "int")  # inputs of nodes that only hold a value
_CONDITIONINGS = ("conditioning", "conditioning_1", "conditioning_2", "conditioning_to", "conditioning_from")
_PIXELS = ("samples", "latent", "pixels", "image", "images", "input")  # from a sampler's latents back to a picture
_CANDIDATES: Mapping[str, tuple[str, ...]] = {"prompt": _TEXTS, "negative": _TEXTS, "seed": _SEEDS, "mask": ("image",)}
_WAY_OUT = "export the workflow from ComfyUI with File > Export (API)"
_NAMED = 10  # nodes or inputs in an error


@dataclass(frozen=True)
class Fields:
    """The inputs of a workflow that are filled in, each as "node.input", such as "6.text", or a list of several.

    Those that are None are found by themselves if the workflow leaves no doubt: from the samplers' links back to the
    texts, the empty latents, and the picture that is encoded. An empty list fills in nothing.

    - `prompt`, `negative`, `seed`, `width`, `height`.
    - `image`: of the node that loads the picture (the plate, or what is repainted).
    - `mask`: of the node that loads the mask, which is white, and transparent, where something is painted. Without one
      the mask is the picture's alpha, as ComfyUI's own mask editor has it.
    - `output`: the id of the node whose picture is taken, if several give one.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    prompt: str | tuple[str, ...] | None = None
    negative: str | tuple[str, ...] | None = None
    seed: str | tuple[str, ...] | None = None
    width: str | tuple[str, ...] | None = None
    height: str | tuple[str, ...] | None = None
    image: str | tuple[str, ...] | None = None
    mask: str | tuple[str, ...] | None = None
    output: str | None = None


@dataclass(frozen=True)
class Workflow:
    """A workflow's nodes by id; `path` is what errors call it."""

    nodes: Mapping[str, Mapping[str, Any]]
    path: str

    @cached_property
    def text(self) -> str:
        """Everything that decides on its pictures, and nothing that does not, such as titles."""
        plain = {name: {"class_type": self.kind(name), "inputs": self.inputs(name)} for name in self.nodes}
        return json.dumps(plain, sort_keys=True)

    def kind(self, node: str) -> str:
        """The node's class."""
        return str(self.nodes[node]["class_type"])

    def inputs(self, node: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.nodes[node]["inputs"]
        return found

    def says(self, node: str) -> str:
        """The node as errors call it: "3 (KSampler)"."""
        return f"{node} ({self.kind(node)})"

    def link(self, node: str, name: str) -> tuple[str, int] | None:
        """The node and the number of its output that an input is linked to; None if it is not linked."""
        value = self.inputs(node).get(name)
        if isinstance(value, list) and len(value) == 2 and str(value[0]) in self.nodes and isinstance(value[1], int):
            return str(value[0]), value[1]
        return None

    def linked(self, node: str, names: Iterable[str]) -> Iterator[str]:
        """The nodes that those inputs are linked to."""
        return (link[0] for name in names if (link := self.link(node, name)) is not None)

    def filled(self, values: Mapping[Target, Any]) -> dict[str, Any]:
        """The nodes with these inputs set."""
        nodes: dict[str, Any] = copy.deepcopy(dict(self.nodes))
        for (node, name), value in values.items():
            nodes[node]["inputs"][name] = value
        return nodes


def parse(text: str, path: str) -> Workflow:
    """A workflow from its file's text. Raises RecipeError if it is none, or not in the form of the API."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not JSON ({error}): {_WAY_OUT}") from error
    if isinstance(content, dict) and "nodes" in content and "links" in content:
        raise RecipeError(
            f"{path}: this is the format in which ComfyUI saves workflows for itself: export it with File > Export "
            "(API) (in older versions: switch on the dev mode, then Save (API Format))"
        )
    if isinstance(content, dict) and isinstance(content.get("prompt"), dict):  # a whole request
        content = content["prompt"]
    if not isinstance(content, dict) or not content:
        raise RecipeError(f"{path}: no workflow: {_WAY_OUT}")
    for name, node in content.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise RecipeError(f"{path}: node {name!r} has no class_type: {_WAY_OUT}")
        if not isinstance(node.get("inputs"), dict):
            raise RecipeError(f"{path}: node {name!r} ({node['class_type']}) has no inputs")
    return Workflow(content, path)


@dataclass(frozen=True)
class Binding:
    """What is filled in where. `alpha` says that the mask is read from the picture's alpha."""

    targets: Mapping[str, tuple[Target, ...]] = field(default_factory=dict)
    alpha: bool = False

    def __getitem__(self, name: str) -> tuple[Target, ...]:
        return self.targets.get(name, ())

    def values(self, given: Mapping[str, Any]) -> dict[Target, Any]:
        """The value of each input, from the values by the names of fields; None leaves an input as it is."""
        return {target: value for name, value in given.items() if value is not None for target in self[name]}


def bind(workflow: Workflow, chosen: Fields, needs: Sequence[str], table: str) -> Binding:
    """Where each field is filled in: as it is chosen, or else as the workflow's links tell.

    `needs` are the fields that there have to be; "size" stands for width and height, or else an image. Raises
    RecipeError if one of them is not certain, naming the inputs that could be meant, or if a field names an input that
    there is not. `table` is the part of the recipe that errors name.
    """
    found = _Search(workflow).found()
    targets: dict[str, tuple[Target, ...]] = {}
    for one in fields(Fields):
        given = getattr(chosen, one.name)
        if one.name == "output":
            if given is not None:
                _check_node(workflow, given, f"{table}.fields.output")
        elif given is not None:
            names = (given,) if isinstance(given, str) else given
            targets[one.name] = tuple(_target(workflow, name, f"{table}.fields.{one.name}") for name in names)
        else:
            targets[one.name] = found[one.name]
    images = {node for node, _ in targets["image"]}
    if chosen.mask is None and {node for node, _ in targets["mask"]} <= images:
        targets["mask"] = ()  # not a file of its own
    links = (workflow.link(node, name) for node, name in _inputs(workflow))
    alpha = chosen.mask is None and any(link is not None and link[0] in images and link[1] == 1 for link in links)
    binding = Binding(targets, alpha and not targets["mask"])
    for need in needs:
        if need == "size" and not binding["image"] and not (binding["width"] and binding["height"]):
            _refuse(workflow, "height" if binding["width"] else "width", table)
        elif need != "size" and not binding[need] and not (need == "mask" and binding.alpha):
            _refuse(workflow, need, table)
    for node in {node for node, _ in binding["width"]}:
        batch = workflow.inputs(node).get("batch_size", 1)
        if isinstance(batch, int) and batch != 1:
            raise RecipeError(
                f"{workflow.path}: node {workflow.says(node)}: batch_size is {batch}, but one picture at a time is "
                "needed: set it to 1 and export the workflow again"
            )
    return binding


class _Search:
    """What a workflow's links tell about its fields, from the samplers backward."""

    def __init__(self, workflow: Workflow) -> None:
        self._flow = workflow
        self._samplers = [node for node in workflow.nodes if workflow.link(node, "latent_image") is not None]

    def found(self) -> dict[str, tuple[Target, ...]]:
        """The inputs of each field that there is no doubt about."""
        flow, found = self._flow, dict[str, tuple[Target, ...]]()
        guides = [one for node in self._samplers for one in (node, *flow.linked(node, ["guider"]))]
        noises = [one for node in self._samplers for one in (node, *flow.linked(node, ["noise"]))]
        positive = {texts for node in guides for texts in self._texts(node, "positive")}
        negative = {texts for node in guides for texts in self._texts(node, "negative")} - positive
        found["prompt"] = positive.pop() if len(positive) == 1 else ()
        found["negative"] = negative.pop() if len(negative) == 1 else ()
        found["seed"] = tuple(
            dict.fromkeys(target for node in noises for name in _SEEDS for target in self._held(node, name, int))
        )
        sizes, images, masks = set[tuple[Target, ...]](), set[Target](), set[Target]()
        for sampler in self._samplers:
            for node in self._behind(sampler):
                if "batch_size" in flow.inputs(node):
                    size = tuple(target for name in ("width", "height") for target in self._held(node, name, int))
                    sizes |= {size} if len(size) == 2 else set()
                images |= {(node, "image")} if _loads(flow, node) else set()
                for start in flow.linked(node, ["mask"]):
                    masks |= {(one, "image") for one in self._masks(start) if _loads(flow, one)}
        size = sizes.pop() if len(sizes) == 1 else ()
        found["width"], found["height"] = size[:1], size[1:]
        found["image"] = tuple(images) if len(images) == 1 else ()
        found["mask"] = tuple(masks) if len(masks) == 1 else ()
        return found

    def _texts(self, node: str, role: str) -> Iterator[tuple[Target, ...]]:
        """The inputs for words of each node that encodes a text for that role, "positive" or "negative"."""
        seen, left = set[str](), list(self._flow.linked(node, [role]))
        if role == "positive":
            left += self._flow.linked(node, ["conditioning"])
        while left:
            here = left.pop()
            if here in seen or self._flow.kind(here) == "ConditioningZeroOut":
                continue
            seen.add(here)
            texts = tuple(target for name in _TEXTS for target in self._held(here, name, str))
            if texts:
                yield texts
            else:
                by_role = list(self._flow.linked(here, [role]))
                left += by_role or list(self._flow.linked(here, _CONDITIONINGS))

    def _held(self, node: str, name: str, kind: type) -> Iterator[Target]:
        """The input, if it holds a value of that type, or the one of the node that it is linked to and that does."""
        if isinstance(self._flow.inputs(node).get(name), kind):
            yield node, name
        for other in self._flow.linked(node, [name]):
            held = [one for one in _VALUES if isinstance(self._flow.inputs(other).get(one), kind)]
            yield from ((other, one) for one in held[:1])

    def _behind(self, sampler: str) -> Iterator[str]:
        """The nodes that a sampler's latents come from, up to the next sampler."""
        seen, left = set(self._samplers), list(self._flow.linked(sampler, ["latent_image"]))
        while left:
            here = left.pop()
            if here not in seen:
                seen.add(here)
                yield here
                left += self._flow.linked(here, _PIXELS)

    def _masks(self, start: str) -> Iterator[str]:
        """The nodes that a mask comes from; none beyond one that inverts it."""
        seen, left = set[str](), [start]
        while left:
            here = left.pop()
            if here not in seen and self._flow.kind(here) != "InvertMask":
                seen.add(here)
                yield here
                left += self._flow.linked(here, ["mask", "image"])


def _loads(workflow: Workflow, node: str) -> bool:
    """Whether the node loads a picture from a file."""
    return workflow.kind(node).startswith("LoadImage") and isinstance(workflow.inputs(node).get("image"), str)


def _inputs(workflow: Workflow) -> Iterator[Target]:
    return ((node, name) for node in workflow.nodes for name in workflow.inputs(node))


def _check_node(workflow: Workflow, node: str, where: str) -> None:
    if node not in workflow.nodes:
        raise RecipeError(
            f"{where}: {workflow.path} has no node {node!r}; it has: {_listed(map(workflow.says, workflow.nodes))}"
        )


def _target(workflow: Workflow, text: str, where: str) -> Target:
    """The node and input that a field names. Raises RecipeError."""
    node, dot, name = text.partition(".")
    if not dot:
        raise RecipeError(f'{where}: {text!r} is not an input: write "node.input", such as "6.text"')
    _check_node(workflow, node, where)
    if name not in workflow.inputs(node):
        known = _listed(workflow.inputs(node))
        raise RecipeError(
            f"{where}: node {workflow.says(node)} of {workflow.path} has no input {name!r}; it has: {known}"
        )
    return node, name


def _refuse(workflow: Workflow, name: str, table: str) -> None:
    """Say that it is not certain where a field is filled in."""
    wanted = _CANDIDATES.get(name, (name,))
    candidates = [f'"{node}.{one}" ({workflow.kind(node)})' for node, one in _inputs(workflow) if one in wanted]
    way_out = (
        f"set {table}.fields.{name} to one of: {_listed(candidates)}"
        if candidates
        else f"no input of it is called {' or '.join(wanted)}; set {table}.fields.{name}; its nodes are "
        f"{_listed(map(workflow.says, workflow.nodes))}"
    )
    raise RecipeError(f"{workflow.path}: which input takes the {name} is not certain: {way_out}")


def _listed(names: Iterable[str]) -> str:
    whole = list(names)
    return ", ".join(whole[:_NAMED]) + (f" and {len(whole) - _NAMED} more" if len(whole) > _NAMED else "")
