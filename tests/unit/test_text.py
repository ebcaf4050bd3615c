"""Text: subword ids, their determinism, and the words of lexical search."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data.text import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK, TextTokenizer, TokenizerConfig, words
from triptych.foundation.errors import ArtifactError, ConfigError

TITLES = [
    "Red Summer Dress",
    "Blue Men's T-Shirt 500ml",
    "red dress for women",
    "summer dress, red & white",
    "blue t-shirt",
    "Café crème 250g",
    "红色连衣裙 女装夏季新款",
    "男士运动鞋 红色",
    "红色 dress 女装",
    "ワンピース レッド",
]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.fit(TITLES, config=TokenizerConfig(vocab_size=200))


def test_special_ids(tokenizer: TextTokenizer) -> None:
    assert (PAD, CLS, SEP, MASK, UNK) == (0, 1, 2, 3, 4)
    assert [tokenizer._tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]


def test_encode_pads_and_frames(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode(["red dress", ""], max_tokens=6)
    assert ids.dtype == np.int32
    inner = [tokenizer._tokenizer.token_to_id(piece) for piece in tokenizer.pieces("red dress")]
    assert ids[0].tolist() == [CLS, *inner, SEP] + [PAD] * (4 - len(inner))
    assert ids[1].tolist() == [CLS, SEP, PAD, PAD, PAD, PAD]
    assert tokenizer.encode([], max_tokens=6).shape == (0, 6)


def test_encode_truncates_and_still_ends_with_sep(tokenizer: TextTokenizer) -> None:
    long = tokenizer.encode(["red dress " * 50], max_tokens=300)[0]
    short = tokenizer.encode(["red dress " * 50], max_tokens=7)[0]
    assert short[:6].tolist() == long[:6].tolist()
    assert short[6] == SEP
    assert (long == SEP).sum() == 1
    assert tokenizer.encode(["red"], max_tokens=2)[0].tolist() == [CLS, SEP]


def test_a_row_does_not_depend_on_its_batch(tokenizer: TextTokenizer) -> None:
    together = tokenizer.encode(TITLES, max_tokens=12)
    alone = np.concatenate([tokenizer.encode([title], max_tokens=12) for title in TITLES])
    assert np.array_equal(together, alone)


def test_case_width_and_spacing_fold_together(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode(["red dress", "RED  Dress ", "ｒｅｄ\tdress", "red\u3000dress"], max_tokens=12)
    assert (ids == ids[0]).all()


def test_accents_and_digits_are_kept(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode(["café", "cafe", "500", "250"], max_tokens=12)
    assert len(np.unique(ids, axis=0)) == 4


def test_frequent_words_are_one_piece_and_han_characters_one_each(tokenizer: TextTokenizer) -> None:
    assert tokenizer.pieces("Red dress") == ["▁red", "▁dress"]
    assert tokenizer.pieces("红色dress女装") == ["红", "色", "▁dress", "女", "装"]
    assert tokenizer.pieces("t-shirt")[1] == "▁-"


def test_an_unseen_script_is_unknown_but_not_an_error(tokenizer: TextTokenizer) -> None:
    assert UNK in tokenizer.encode(["สวัสดี"], max_tokens=12)[0]


def test_a_special_token_in_a_query_is_plain_text(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    for one in (tokenizer, TextTokenizer.load(tmp_path / "tokenizer.json")):
        assert MASK not in one.encode(["[MASK] red [PAD] [CLS]"], max_tokens=30)
        assert (one.encode(["[CLS] red"], max_tokens=30) == CLS).sum() == 1


def test_save_and_load_agree(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = TextTokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.vocab_size == tokenizer.vocab_size
    assert np.array_equal(loaded.encode(TITLES, max_tokens=16), tokenizer.encode(TITLES, max_tokens=16))
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_the_order_of_the_texts_does_not_matter(tmp_path: Path) -> None:
    rng = random.Random(0)
    letters = "abcdefghij"
    texts = [" ".join("".join(rng.choices(letters, k=rng.randint(1, 9))) for _ in range(6)) for _ in range(800)]
    texts += ["".join(chr(0x4E00 + rng.randrange(500)) for _ in range(8)) for _ in range(200)]
    files = []
    for seed in range(3):
        random.Random(seed).shuffle(texts)
        fitted = TextTokenizer.fit(texts, config=TokenizerConfig(vocab_size=300))
        fitted.save(tmp_path / f"{seed}.json")
        files.append((tmp_path / f"{seed}.json").read_bytes())
    assert files[0] == files[1] == files[2]


def test_another_process_trains_the_same_tokenizer(tmp_path: Path) -> None:
    """Hash tables are seeded per process; the counts here tie often, so an order taken from one would show."""
    program = (
        "import sys; from pathlib import Path; from triptych.data.text import TextTokenizer, TokenizerConfig\n"
        "texts = [f'{a}{b}{c} {c}{a}' for a in 'abcdefgh' for b in 'abcdefgh' for c in '红黄蓝绿xyz']\n"
        "TextTokenizer.fit(texts, config=TokenizerConfig(vocab_size=64)).save(Path(sys.argv[1]))\n"
    )
    for run in range(3):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / f"{run}.json")], check=True)
    assert len({(tmp_path / f"{run}.json").read_bytes() for run in range(3)}) == 1


def test_rare_characters_give_way_when_there_are_too_many(tmp_path: Path) -> None:
    frequent = "".join(chr(0x4E00 + i) for i in range(20))
    rare = "".join(chr(0x5000 + i) for i in range(500))
    fitted = TextTokenizer.fit([frequent] * 5 + [rare], config=TokenizerConfig(vocab_size=64))
    assert fitted.vocab_size <= 64
    assert UNK not in fitted.encode([frequent], max_tokens=40)[0]
    assert UNK in fitted.encode([rare[-1]], max_tokens=40)[0]


def test_no_text_at_all_still_makes_a_tokenizer() -> None:
    empty = TextTokenizer.fit([], config=TokenizerConfig())
    assert empty.encode(["anything"], max_tokens=4)[0, 0] == CLS


def test_bad_files_and_settings(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        TextTokenizer.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ArtifactError, match="is damaged"):
        TextTokenizer.load(tmp_path / "bad.json")
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(tmp_path / "other.json"))
    with pytest.raises(ArtifactError, match=r"lacks \[PAD\], \[CLS\]"):
        TextTokenizer.load(tmp_path / "other.json")
    with pytest.raises(ConfigError, match="vocab_size"):
        TokenizerConfig.parse({"vocab_size": 3})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Puma Men's T-Shirt, 500ml!", ["puma", "men", "s", "t", "shirt", "500ml"]),
        ("ＦＵＬＬ width ①", ["full", "width", "1"]),
        ("红色连衣裙", ["红色", "色连", "连衣", "衣裙"]),
        ("鞋 红色", ["鞋", "红色"]),
        ("红色dress鞋2件", ["红色", "dress", "鞋", "2", "件"]),
        ("ワンピース・赤", ["ワン", "ンピ", "ピー", "ース", "赤"]),
        ("운동화 나이키", ["운동", "동화", "나이", "이키"]),
        ("हिन्दी किताब", ["हिन्दी", "किताब"]),
        ("Crème brûlée", ["crème", "brûlée"]),
        (" -- \t", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str], tokenizer: TextTokenizer) -> None:
    assert words(text) == expected
    assert tokenizer.words(text) == expected


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_tokenised(text: str) -> None:
    assert all(word == word.strip() and word for word in words(text))
    assert words(text) == words(text.upper().lower()) or not text.isascii()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(), max_size=4), st.integers(2, 9))
def test_any_text_is_encoded(tokenizer: TextTokenizer, texts: list[str], max_tokens: int) -> None:
    ids = tokenizer.encode(texts, max_tokens=max_tokens)
    assert ids.shape == (len(texts), max_tokens)
    assert ((ids >= 0) & (ids < tokenizer.vocab_size)).all()
    assert (ids[:, 0] == CLS).all()
    assert ((ids == SEP).sum(axis=1) == 1).all()
    after_sep = np.cumsum(ids == SEP, axis=1) - (ids == SEP) > 0
    assert (ids[after_sep] == PAD).all()
    assert (ids[~after_sep] != PAD).all()
