"""A tokenizer that knows a dozen words, for tiny models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_WORDS = [*("sky", "grass", "sand", "sea", "rock", "wall", "road", "tree"), *("a", "the", "of", "on", "soft", "grey")]


def word_tokenizer(extra: Sequence[str] | dict[str, str] = (), words: Sequence[str] = (), **options: Any) -> Any:
    """A tokenizer that knows `_WORDS` and `words`, and each of `extra` as one special token, which may have names."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    named = extra if isinstance(extra, dict) else list(extra)
    known = dict.fromkeys([*special.values(), *_WORDS, *words])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizers: Any = PreTrainedTokenizerFast  # untyped
    return tokenizers(tokenizer_object=tokenizer, **special, extra_special_tokens=named, **options)
