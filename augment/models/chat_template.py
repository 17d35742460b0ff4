"""How a GGUF model wants its chats written: its own template, rendered to what gpt4all takes."""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from augment.errors import UnavailableError

# Format of a GGUF file's head: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# Files of 2023, such as GPT4All's Mistral 7B Instruct, carry no template. These are GPT4All's own for them.
_BY_NAME = {
    "mistral": "[INST] {0} [/INST]",
    "mixtral": "[INST] {0} [/INST]",
    "orca": "### User:\n{0}\n\n### Response:\n",
}
_DEFAULT = "### Human:\n{0}\n\n### Assistant:\n"  # gpt4all.gpt4all.DEFAULT_PROMPT_TEMPLATE
_SYSTEM, _USER = "\N{START OF HEADING}system", "\N{START OF HEADING}user"  # in no template, and untouched by `trim`


def prompt_template(path: str, system: str) -> str:
    """The text around a user's message, "{0}", for `GPT4All.chat_session`, with the system message in its place.

    Raises UnavailableError if the file is not GGUF.
    """
    template = _template(path)
    # gpt4all passes the text through `str.format`, and llmodel looks for "%1" in it.
    system = system.replace("{", "(").replace("}", ")").replace("%", " percent")
    if _SYSTEM in template:
        return template.replace(_SYSTEM, system)
    return template.replace("{0}", f"{system}\n\n{{0}}")


@lru_cache(maxsize=8)
def _template(path: str) -> str:
    own = read_metadata(Path(path)).get("tokenizer.chat_template")
    rendered = _render(own) if isinstance(own, str) else None
    if rendered is None:
        return next((template for name, template in _BY_NAME.items() if name in Path(path).name.lower()), _DEFAULT)
    return rendered.replace("{", "{{").replace("}", "}}").replace(_USER, "{0}")


def _render(template: str) -> str | None:
    """A Jinja chat template with marks in place of the messages; None if it cannot be rendered."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    # A template is a program that comes with the weights, hence the sandbox, which transformers uses for it as well.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    user = {"role": "user", "content": _USER}
    for messages in ([{"role": "system", "content": _SYSTEM}, user], [user]):
        try:
            # llmodel writes the token that begins a text by itself.
            options: dict[str, Any] = {"add_generation_prompt": True, "bos_token": "", "eos_token": ""}
            text = environment.from_string(template).render(messages=messages, **options)
        except Exception:  # some templates take no system message, and any of them may be wrong
            continue
        if text.count(_USER) == 1 and (len(messages) == 1 or text.count(_SYSTEM) == 1):
            return text
    return None


def read_metadata(path: Path) -> dict[str, Any]:
    """The scalars and strings in the head of a GGUF file by name; arrays are left out. Raises UnavailableError."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise UnavailableError(f"{path} is not a GGUF file")
            _, _, count = _unpack(file, "IQQ")
            return {name: value for name, value in (_entry(file) for _ in range(count)) if value is not None}
    except (OSError, struct.error, KeyError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise UnavailableError(f"{path} cannot be read as a GGUF file: {error}") from error


def _entry(file: BinaryIO) -> tuple[str, Any]:
    name = _string(file)
    return name, _value(file, _unpack(file, "I")[0])


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _unpack(file, _SCALARS[kind])[0]
    kind, length = _unpack(file, "IQ")
    if kind in _SCALARS:
        file.seek(length * struct.calcsize(f"<{_SCALARS[kind]}"), 1)
    else:
        for _ in range(length):
            _value(file, kind)
    return None


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    return file.read(length).decode()


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))
