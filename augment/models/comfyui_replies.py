"""What ComfyUI says in its replies: pictures, errors of nodes, and the choices that its nodes offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from augment.errors import AugmentError, ItemFailed, UnavailableError

# Errors that do not depend on what is filled in, so that every item would meet them.
_LASTING = frozenset({"missing_node_type", "invalid_prompt", "prompt_no_outputs", "value_not_in_list"})
_LONGEST_WORDS = 300  # characters of a server's message that are quoted


@dataclass(frozen=True)
class Pictured:
    """A picture that a node has made, and where the server keeps it: its output folder or its temporary one."""

    node: str
    name: str
    folder: str
    type: str


def pictures_of(entry: Mapping[str, Any]) -> list[Pictured]:
    """The pictures that a job's entry in the history names."""
    found = []
    outputs = entry.get("outputs")
    for node, output in outputs.items() if isinstance(outputs, Mapping) else ():
        images = output.get("images") if isinstance(output, Mapping) else None
        for image in images if isinstance(images, list) else ():
            if isinstance(image, Mapping) and image.get("filename"):
                folder, kind = str(image.get("subfolder") or ""), str(image.get("type") or "output")
                found.append(Pictured(str(node), str(image["filename"]), folder, kind))
    return found


def failure_of(entry: Mapping[str, Any], table: str) -> str | None:
    """Why a job failed, in one sentence; None if it did not. `table` is the part of the recipe that it names."""
    status = entry.get("status")
    if not isinstance(status, Mapping) or status.get("status_str") != "error":
        return None
    messages = status.get("messages")
    told = {
        str(message[0]): message[1]
        for message in (messages if isinstance(messages, list) else ())
        if isinstance(message, list) and len(message) == 2 and isinstance(message[1], Mapping)
    }
    if "execution_error" in told:
        said = told["execution_error"]
        where = f"node {said.get('node_id')} ({said.get('node_type')})"
        words = _line(f"{str(said.get('exception_type', '')).rpartition('.')[2]}: {said.get('exception_message')}")
        if "OutOfMemory" in words or "out of memory" in words.lower():
            return f"{where} has run out of memory: lower {table}.size, or free the server's GPU ({words})"
        return f"{where} failed: {words}"
    if "execution_interrupted" in told:
        return "the job was interrupted at the server"
    return "the job failed, and the server does not say why"


def invalid(content: Mapping[str, Any], before: str, words: str) -> AugmentError:
    """The error for a workflow that `/prompt` refuses: UnavailableError if every item would meet it, else ItemFailed.
    `words` are what it says if it names no node."""
    error = content.get("error")
    kinds, said = [str(error.get("type"))] if isinstance(error, Mapping) else [], []
    node_errors = content.get("node_errors")
    for node, found in node_errors.items() if isinstance(node_errors, Mapping) else ():
        for one in found.get("errors", ()) if isinstance(found, Mapping) else ():
            kinds.append(str(one.get("type")))
            said.append(f"node {node} ({found.get('class_type')}): {one.get('message')}: {one.get('details')}")
    if not said and isinstance(error, Mapping):
        said = [": ".join(str(error[name]) for name in ("message", "details") if error.get(name))]
    text = f"{before}: {_line('; '.join(said)) or words}"
    return UnavailableError(text) if _LASTING.intersection(kinds) else ItemFailed(text)


def options_of(info: Mapping[str, Any], name: str) -> Sequence[Any] | None:
    """The values that an input of a node class may have; None if it may have any, or if the list is not the whole.

    A list of files that can be uploaded does not hold those in folders; others are fetched by the browser.
    """
    for group in (info.get("input") or {}).values():
        if not isinstance(group, Mapping) or name not in group:
            continue
        kind, *rest = group[name]
        extra = rest[0] if rest and isinstance(rest[0], Mapping) else {}
        if any("upload" in key or "remote" in key for key in extra) or extra.get("multiselect"):
            return None
        options = kind if isinstance(kind, list) else extra.get("options") if kind == "COMBO" else None
        return options if isinstance(options, list) else None
    return None


def _line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_WORDS]
