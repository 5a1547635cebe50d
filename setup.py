"""Puts the method cards of docs/methods into a built package; everything else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARDS = Path(__file__).parent / "docs" / "methods"


class WithCards(build_py):
    """An editable install reads the cards where they are; a wheel carries them."""

    def run(self) -> None:
        super().run()
        if not getattr(self, "editable_mode", False):
            for card in CARDS.rglob("*.md"):
                target = Path(self.build_lib) / "ornstein" / "docs" / "methods" / card.relative_to(CARDS)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(card, target)


setup(cmdclass={"build_py": WithCards})
