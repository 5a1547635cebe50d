"""WordPiece: the uncased BERT tokenizer, split into words and then into the longest known pieces.

"Google's Neural Machine Translation System", Yonghui Wu et al., 2016, arXiv:1609.08144; as in BERT, arXiv:1810.04805.
Special tokens written out in a text ("[SEP]") are read as ordinary characters, so that a prompt cannot inject them.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

__all__ = ["WordPiece"]


@dataclass(frozen=True)
class WordPiece:
    """Uncased BERT tokenizer: split at spaces, punctuation and Chinese characters, then longest known piece first."""

    vocab: dict[str, int]  # piece -> id; pieces inside a word begin with ##

    @classmethod
    def read(cls, path: Path) -> WordPiece:
        """From vocab.txt, one piece a line."""
        return cls({piece: i for i, piece in enumerate(path.read_text(encoding="utf-8").split("\n")) if piece})

    def __call__(self, text: str, length: int) -> list[int]:
        """[CLS] pieces [SEP], at most `length` ids."""
        pieces = [i for word in _words(text) for i in self._pieces(word)]
        return [self.vocab["[CLS]"], *pieces[: length - 2], self.vocab["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word) <= 100:
            prefix = "##" if start else ""
            end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in self.vocab), None)
            if end is None:
                break
            found.append(self.vocab[prefix + word[start:end]])
            start = end
        return found if start == len(word) else [self.vocab["[UNK]"]]


def _words(text: str) -> list[str]:
    """Lower case without accents or control characters, split into words and single marks."""
    clean = "".join(" " if c in "\t\n\r" or unicodedata.category(c) == "Zs" else c for c in text
                    if c in "\t\n\r" or not (c in "\0\ufffd" or unicodedata.category(c)[0] == "C"))  # fmt: skip
    clean = "".join(c.lower() for c in unicodedata.normalize("NFD", clean) if unicodedata.category(c) != "Mn")
    return "".join(f" {c} " if _alone(c) else c for c in clean).split()


def _alone(c: str) -> bool:
    """Punctuation (every printable ASCII mark counts) and the unified ideographs stand alone."""
    n = ord(c)
    if n < 128:
        return c.isprintable() and not c.isalnum() and c != " "
    ranges = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
    return unicodedata.category(c)[0] == "P" or any(a <= n <= b for a, b in ranges)
