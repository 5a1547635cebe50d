"""The pages: points where they belong, names that do not meet, nothing from elsewhere."""

import re

import pytest

from ornstein.report import Point, frame, scatter, table


def circles(svg):
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]


def test_points_stand_in_order_on_logarithmic_axes():
    svg = scatter(
        [Point("a", 1, 0.1, 0.09, 0.11), Point("b", 10, 0.01, 0.01, 0.01), Point("c", 100, 0.001, 0.001, 0.001)],
        "ms",
        "loss",
    )
    (ax, ay), (bx, by), (cx, cy) = circles(svg)
    assert (
        bx - ax == pytest.approx(cx - bx, abs=0.3)
        and by - ay == pytest.approx(cy - by, abs=0.3)
        and ax < bx
        and ay < by
    )


def test_a_loss_of_nothing_stands_below_and_several_make_the_axis_even():
    one = scatter([Point("ref", 10, 0.0, 0.0, 0.0), Point("a", 5, 0.1, 0.1, 0.1)], "ms", "loss")
    assert circles(one)[0][1] > circles(one)[1][1]
    svg = scatter([Point(str(v), 1 + v, v - 1.0, v - 1.5, v - 0.5) for v in range(4)], "ms", "loss")
    ys = [y for _, y in circles(svg)]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.3) == pytest.approx(ys[2] - ys[3], abs=0.3)


def test_names_do_not_meet():
    svg = scatter([Point(f"a plan of some length {k}", 1, 1, 1, 1, front=k == 7) for k in range(9)], "ms", "loss")
    assert "length 7</text>" in svg and len(re.findall(r"length \d</text>", svg)) <= 2 and svg.count("<title>") == 9


def test_the_bound_and_nothing_measured():
    assert "the bound" in scatter([Point("a", 1, 1, 1, 1)], "x", "y", bound=0.5)
    assert "Nothing was measured" in scatter([Point("a", 0, 1, 1, 1), Point("b", 1, float("nan"), 0, 0)], "x", "y")


def test_what_is_written_is_escaped():
    assert "&lt;b&gt;" in table(["<b>"], [("", ["<i>"])]) and "<i>" not in table(["a"], [("", ["<i>"])])
    assert "<title>a &amp; b</title>" in frame("a & b", "") and "<script" not in frame(
        "x", scatter([Point("<script>", 1, 1, 1, 1)], "", "")
    )
