"""Keep secrets out of messages: keys, passwords, and logins inside addresses."""

from __future__ import annotations

import base64
import os
import re

HIDDEN = "***"

# The environment variables that hold a secret which a stage, or a library that it calls, sends to a server.
_SECRETS = (
    "OPENAI_API_KEY",
    "AUGMENT_WEBUI_AUTH",
    "AUGMENT_COMFYUI_AUTH",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)
_SHORTEST = 6  # characters; hiding shorter words would garble messages
_LOGIN = re.compile(r"(?<=://)[^/\s@'\"]*@(?=[^\s/@])")  # "user:password@" in an address


def redact(text: str) -> str:
    """The text with `***` in place of every known secret and of every login in an address."""
    text = _LOGIN.sub(f"{HIDDEN}@", text)
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _secrets() -> set[str]:
    found = set()
    for name in _SECRETS:
        whole = os.environ.get(name, "").strip()
        # A login is sent in base64, and its password alone is a secret as well.
        forms = [whole, *whole.split(), whole.partition(":")[2], base64.b64encode(whole.encode()).decode()]
        forms += [repr(form)[1:-1] for form in forms]
        found |= {form for form in forms if len(form) >= _SHORTEST}
    return found
