"""Text: subword tokens for the encoders, words for lexical search; any language, Chinese included.

The tokenizer is byte-pair encoding, trained on the shop's own titles and queries. Words are marked at their start
(``▁dress``); Han characters, whose script has no spaces, are a piece each and carry no mark, so that one costs one
place in the vocabulary. Digits, hyphens and the like are kept: in a shop, `500ml` and `t-shirt` mean something.

Byte-pair encoding, because its training has no choice to make: equal counts are broken by the pieces themselves. (In
the `tokenizers` library, WordPiece numbers its continuations in the order of a hash table, and unigram sums floats in
the order of its threads: the same titles would give other files.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from triptych.data.schema import Role
from triptych.foundation.artifact import Artifact, produce
from triptych.foundation.config import Config
from triptych.foundation.errors import ArtifactError, ConfigError, did_you_mean

if TYPE_CHECKING:  # encoders read this file to serve, and need no tables for it
    from triptych.data.catalogue import Catalogue
    from triptych.data.splits import Split

KIND = "tokenizer"
FILE = "tokenizer.json"

PAD, CLS, SEP, MASK, UNK = range(5)
"""Ids of the special tokens, the same in every tokenizer."""
SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")
WORD_START = "▁"

# Letters of scripts that put no spaces between words, and Hangul, whose words carry their endings with them.
_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecf\u0edc-\u0edf"  # Thai, Lao
    "\u1000-\u103f\u1050-\u109f\u1780-\u17d3"  # Myanmar, Khmer
    "\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff"  # Hangul
    "\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff"  # iteration mark, kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_STARTS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_WORDS = pre_tokenizers.Split(
    Regex(rf"[{_UNSPACED}]+|[\p{{L}}\p{{M}}\p{{N}}&&[^{_UNSPACED}]]+"), behavior="removed", invert=True
)
_FOLD = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])


class TokenizerConfig(Config):
    """A tokenizer trained on the shop's own titles and queries."""

    vocab_size: int = Field(8_000, ge=64, le=200_000)
    """Number of tokens, the five special ones included; fewer where the texts hold fewer."""
    min_count: int = Field(2, ge=1)
    """How often two pieces must stand side by side to be joined."""


class AnyTokenizer(Protocol):
    """What turns texts into token ids: the shop's own `TextTokenizer`, or a pretrained model's."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    @property
    def mask_id(self) -> int | None:
        """What stands in the place of a masked word; None: the vocabulary has nothing for that."""
        ...

    @property
    def special_ids(self) -> NDArray[np.int32]:
        """Ids that are no words: padding, marks, and what stands for the unknown."""
        ...

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> NDArray[np.int32]:
        """Return int32 ``[n, max_tokens]``: `CLS`, the text's ids, then `PAD`."""
        ...

    def pieces(self, text: str) -> list[str]:
        """Return a text's tokens as they are written in the vocabulary, unknown ones as ``[UNK]``."""
        ...


class TextTokenizer:
    """Subword ids for texts. Make one with `fit` or `load`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a trained tokenizer of the `tokenizers` library."""
        self._tokenizer = tokenizer
        # "[MASK]" in a query is five characters somebody typed, never the special token. Not kept in the file.
        self._tokenizer.encode_special_tokens = True

    @classmethod
    def fit(cls, texts: Iterable[str], *, config: TokenizerConfig) -> TextTokenizer:
        """Train on texts; the same texts, in any order, give the same tokenizer."""
        texts = list(texts)
        tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNK], fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence(
            [
                normalizers.NFKC(),
                # control characters out, spaces around Han, lower case; accents stay, they tell words apart
                normalizers.BertNormalizer(
                    clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True
                ),
            ]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.WhitespaceSplit(),
                pre_tokenizers.Punctuation("isolated"),
                pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always"),
                pre_tokenizers.Split(Regex(rf"{WORD_START}(?=\p{{Han}})"), behavior="removed"),
            ]
        )
        alphabet = _alphabet(texts, tokenizer=tokenizer, limit=config.vocab_size // 2)
        trainer = trainers.BpeTrainer(
            vocab_size=config.vocab_size,
            min_frequency=config.min_count,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the special ones included."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def mask_id(self) -> int:
        """What stands in the place of a masked word."""
        return MASK

    @property
    def special_ids(self) -> NDArray[np.int32]:
        """Ids that are no words."""
        return np.arange(len(SPECIAL_TOKENS), dtype=np.int32)

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> NDArray[np.int32]:
        """Turn texts into token ids.

        Args:
            texts: ``[n]``; an empty text gives ``[CLS] [SEP]``.
            max_tokens: columns of the result, at least 2; longer texts lose their end.

        Returns:
            int32 ``[n, max_tokens]``: ``[CLS]``, the text, ``[SEP]``, then `PAD`.
        """
        out = np.full((len(texts), max_tokens), PAD, dtype=np.int32)
        out[:, 0] = CLS
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        for row, encoding in zip(out, encodings, strict=True):
            ids = encoding.ids[: max_tokens - 2]
            row[1 : len(ids) + 1] = ids
            row[len(ids) + 1] = SEP
        return out

    def pieces(self, text: str) -> list[str]:
        """Return a text's tokens as they are written in the vocabulary, without the special ones around them."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).tokens)

    def words(self, text: str) -> list[str]:
        """Return a text's lexical tokens; the same as the function `words`."""
        return words(text)

    def save(self, path: Path) -> None:
        """Write one JSON file, in the format of the `tokenizers` library."""
        path.write_text(self._tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> TextTokenizer:
        """Read what `save` wrote.

        Raises:
            ArtifactError: there is no such file, or it is no tokenizer of ours.
        """
        if not path.is_file():
            raise ArtifactError(f"Tokenizer file {str(path)!r} does not exist.")
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises nothing narrower
            raise ArtifactError(f"Tokenizer file {str(path)!r} is damaged ({error}).") from None
        if [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] != [PAD, CLS, SEP, MASK, UNK]:
            raise ArtifactError(f"Tokenizer file {str(path)!r} lacks {', '.join(SPECIAL_TOKENS)} as its first tokens.")
        return cls(tokenizer)


def words(text: str) -> list[str]:
    """Split a text into the words that lexical search compares.

    Lower-case, compatibility forms folded (NFKC), punctuation dropped. Runs of a script without spaces become their
    overlapping pairs of characters, one character alone stays: 连衣裙 → 连衣, 衣裙.
    """
    found: list[str] = []
    for run, _ in _WORDS.pre_tokenize_str(_FOLD.normalize_str(text)):
        if len(run) > 2 and _STARTS_UNSPACED.match(run):
            found.extend(run[i : i + 2] for i in range(len(run) - 1))
        else:
            found.append(run)
    return found


def folded(texts: Sequence[str]) -> list[str]:
    """Write texts in one way: compatibility forms and letter case folded, blanks single. Equal ones are one query."""
    return [" ".join(_FOLD.normalize_str(text).split()) for text in texts]


def item_texts(catalogue: Catalogue, *, features: Sequence[str] = ()) -> list[str]:
    """Return what encoders read as each item's title ``[items]``: the title, with text features appended.

    Args:
        catalogue: whose items.
        features: names of text features, in order.

    Raises:
        ConfigError: there is no such text feature.
    """
    if not features:
        return catalogue.titles
    require_text_features(features, roles=catalogue.feature_roles)
    columns = [catalogue.items[name].to_list() for name in features]
    return [with_features(title, values) for title, *values in zip(catalogue.titles, *columns, strict=True)]


def require_text_features(features: Sequence[str], *, roles: Mapping[str, str]) -> None:
    """Check that items have the text features that are to be read behind the title.

    Args:
        features: their names.
        roles: feature → what it is, of the items.

    Raises:
        ConfigError: there is no such text feature.
    """
    known = [name for name, role in roles.items() if role == Role.TEXT]
    for name in features:
        if name not in known:
            raise ConfigError(
                f"encoder.title_features: the items have no text feature '{name}'.{did_you_mean(name, known)} "
                f"Text features: {', '.join(known) or 'none'}."
            )


def with_features(title: str | None, values: Iterable[str | None]) -> str:
    """Append the values of text features to a title; what is absent is passed over."""
    return ". ".join(text for text in (title, *values) if text)


def build(
    config: TokenizerConfig,
    *,
    catalogue: Catalogue,
    split: Split | None,
    out: Path,
    title_features: Sequence[str] = (),
) -> Artifact:
    """Train a tokenizer on what was known in the training part: titles of its items, and its queries, each once.

    Args:
        config: its size.
        catalogue: whose titles and queries.
        split: what is training; later items and queries are not read. None: there is no log, and all titles are.
        out: the stage's folder; the artefact is made in it, with `FILE` in it.
        title_features: text features that are read with the titles (`EncoderConfig.title_features`).
    """
    inputs = {"catalogue": catalogue.artifact}
    if split is not None:
        split.artifact.require_input("catalogue", catalogue.artifact)
        inputs["split"] = split.artifact

    def write(folder: Path) -> dict[str, Any]:
        titles, queries = training_texts(catalogue, split=split, title_features=title_features)
        tokenizer = TextTokenizer.fit([*titles, *queries], config=config)
        tokenizer.save(folder / FILE)
        return {"titles": len(titles), "queries": len(queries), "vocab_size": tokenizer.vocab_size}

    tree = config.dump() | ({"title_features": list(title_features)} if title_features else {})
    return produce(out, kind=KIND, config=tree, inputs=inputs, build=write)


def training_texts(
    catalogue: Catalogue, *, split: Split | None, title_features: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Return titles of the items that were there before validation, and the distinct queries of training."""
    texts = item_texts(catalogue, features=title_features)
    if split is None:
        return [text for text in texts if text], []
    titles = [text for text, is_known in zip(texts, split.items_known(catalogue), strict=True) if is_known and text]
    return titles, [catalogue.queries[row] for row in split.train_query_rows(catalogue)]


def _alphabet(texts: Sequence[str], *, tokenizer: Tokenizer, limit: int) -> list[str]:
    """Choose the characters that get a place: all, or the most frequent ones.

    The library would break equal counts by the order of a hash table, hence here, by code point.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    del counts[" "]
    counts[WORD_START] = sum(counts.values()) + 1
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    return ranked[:limit]
