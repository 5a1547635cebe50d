"""The catalog: names to parts, and mistakes that say what was meant."""

import subprocess
import sys

import pytest

from ornstein.core import catalog
from ornstein.core.errors import OrnsteinError, unknown


def test_entries_have_what_they_need():
    for entry in catalog.entries():
        assert entry.summary and entry.part.isidentifier() and entry.path.startswith(entry.room + "/")
    names = [e.name for e in catalog.entries("solvers")]
    assert {"ddim", "ddpm", "dpmpp2m", "euler", "heun"} <= set(names) and names == sorted(names)


def test_it_imports_no_torch():
    code = "import sys; from ornstein.core import catalog; catalog.entries(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_find_and_load():
    assert catalog.find("ddim").path == catalog.find("solvers/ddim").path == "solvers/ddim"
    assert catalog.load("solvers", "ddim").__name__ == "DDIM"


@pytest.mark.parametrize("call, words", [
    (lambda: catalog.find("huen", "solvers"), r"unknown method in solvers/ 'huen'. Did you mean 'heun'\?"),
    (lambda: catalog.find("solvers/huen"), r"unknown method 'solvers/huen'. Did you mean 'solvers/heun'\?"),
    (lambda: catalog.entries("solver"), r"unknown room 'solver'. Did you mean 'solvers'\?"),
    (lambda: catalog.build("solvers", "ddim:etta=1"), r"unknown setting of solvers/ddim 'etta'. Did you mean 'eta'\?"),
    (lambda: catalog.build("solvers", "euler:eta=1"), r"unknown setting of solvers/euler 'eta'"),
    (lambda: catalog.parse("cfg:3"), r"cannot read the settings of 'cfg:3'. Write NAME:key=value,key=value."),
    (lambda: catalog.parse("cfg:scale=(1"), r"cannot read the settings"),
    (lambda: catalog.parse("cfg:scale=__import__('os')"), r"cannot read the settings"),
])  # fmt: skip
def test_mistakes(call, words):
    with pytest.raises(OrnsteinError, match=words):
        call()


def test_parse():
    assert catalog.parse("ddim") == ("ddim", {})
    assert catalog.parse(" cfg : scale=3, interval=(0,0.8)") == ("cfg", {"scale": 3, "interval": (0, 0.8)})
    assert catalog.parse("vp:schedule=linear,x=-1.5,on=True") == ("vp", {"schedule": "linear", "x": -1.5, "on": True})


def test_build():
    made = catalog.build("solvers", "ddim:eta=0.5")
    assert made.eta == 0.5 and catalog.build("solvers", made) is made
    assert catalog.build("solvers", {"name": "ddim", "eta": 0.25}).eta == 0.25
    assert catalog.build("solvers", "ddim", eta=0.1, elsewhere=3).eta == 0.1  # defaults that do not apply are dropped
    assert catalog.build("solvers", "ddim:eta=1", eta=0.1).eta == 1


def test_errors_say_what_is_known():
    assert str(unknown("fruit", "appel", ["apple", "pear"])) == "unknown fruit 'appel'. Did you mean 'apple'?"
    assert str(unknown("fruit", "zzz", ["pear", "apple"])) == "unknown fruit 'zzz'. Known: apple, pear."
    error = OrnsteinError("this is wrong", "Do that.")
    assert (error.what, error.remedy, str(error)) == ("this is wrong", "Do that.", "this is wrong. Do that.")
    assert str(OrnsteinError("this is wrong")) == "this is wrong" and isinstance(error, ValueError)


@pytest.mark.parametrize("text", ["cfg:scale=nan", "cfg:scale=high", "cfg:scale=1e999", "cfg:scale=True"])
def test_a_number_that_is_none_is_refused(text):
    with pytest.raises(OrnsteinError, match="scale=.* of guidance/cfg is not a finite number"):
        catalog.build("guidance", text)
