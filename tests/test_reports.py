"""Reports: what a person sees of one check."""

from __future__ import annotations

import math
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from evertrain.drift.signal import DriftType, Evidence, Family, Severity, Signal
from evertrain.errors import ConfigError
from evertrain.evidence import EXPLANATIONS, decide, should_retrain
from evertrain.reports import Line, Report, lines, read
from evertrain.specs import Cause, on_drift
from evertrain.triggers import Decision

EDGES = [place / 2 - 5 for place in range(1, 20)]
SERIES = [[f"2026-05-{day:02d}T00:00:00+00:00", 0.30 if day < 10 else 0.42, 50] for day in range(1, 21)]


def bell(middle: float) -> list[float]:
    heights = [math.exp(-((edge - 0.25 - middle) ** 2) / 2) for edge in [*EDGES, 5.0]]
    return [one / sum(heights) for one in heights]


def column(name: str, ratio: float, grade: int, **more: object) -> Signal:
    told = {"histogram": {"edges": EDGES, "reference": bell(0), "recent": bell(ratio / 3)}}
    values = {"p": 0.001, "p_adjusted": 0.01, "unit": "KS distance", "weight": 0.2, "detail": told} | more
    return Signal(name, Family.DATA, "ks", effect=0.08 * ratio, floor=0.08, grade=grade, **values)  # type: ignore[arg-type]


def loss(grade: int = 3) -> Signal:
    told = {"series": SERIES, "change": 9, "before": 0.3, "loss": "absolute error"}
    return Signal(
        "loss", Family.PERFORMANCE, "loss_scan", 1e-9, 0.4, 0.15, "of the baseline loss", grade=grade, detail=told
    )


def decided(*signals: Signal, fired: bool = False, severity: Severity = Severity.NONE, **more: object) -> Decision:
    values = {"reason": "as found", "confidence": 50, "code": "x"} | more
    found = Evidence(signals, 5000, 800, 600, since=SERIES[0][0], until=SERIES[-1][0], notes=("No times were given.",))  # type: ignore[arg-type]
    return Decision(Cause.DRIFT, "drift", fired, severity=severity, found=found, **values)  # type: ignore[arg-type]


CASES = {
    "without evidence": Decision(Cause.AGE, "age", True, "old", "the champion is 25 hours old", Severity.MEDIUM),
    "nothing to say": Decision(Cause.DRIFT, "drift", False, "quiet", "nothing was looked at", found=Evidence()),
    "no labels": decided(column("price", 3, 2), severity=Severity.MEDIUM, drift_type=DriftType.DATA),
    "all insufficient": decided(*(Signal(f"c{n}", Family.DATA, "ks", insufficient="40 rows, 100 needed") for n in range(40))),
    "critical with a change": decided(
        loss(), column("price", 4, 3), fired=True, severity=Severity.CRITICAL, confidence=97, drift_type=DriftType.PERFORMANCE
    ),
    "profile seed": decided(
        Signal("price", Family.DATA, "ks", p=0.03, effect=0.03, floor=0.05, grade=1),
        Signal("outliers", Family.QUALITY, "outliers", effect=0.09, floor=0.05, grade=1),
        Signal("rmse", Family.PERFORMANCE, "rmse", effect=0.21, floor=0.1, grade=1),
        fired=True, severity=Severity.HIGH, drift_type=DriftType.OUTLIERS,
    ),
    "odd numbers": decided(
        Signal("inf", Family.DATA, "ks", p=0.0, effect=math.inf, floor=0.1, grade=3),
        Signal("nan", Family.DATA, "ks", effect=math.nan, floor=0.1),
        Signal("gone", Family.QUALITY, "type", stop=True),
        column("constant", 2, 1, detail={"histogram": {"edges": [1, 1, 1], "reference": [1, 0, 0, 0], "recent": [0, 0, 0, 0]}}),
        Signal("loss", Family.PERFORMANCE, "loss_scan", grade=1, detail={"series": [[0, 0.1, 5]], "change": 0, "loss": "0/1"}),
    ),
}  # fmt: skip


class Page(HTMLParser):
    """What a page holds; fails where an element is not closed in order."""

    VOID = frozenset({"meta", "br", "circle", "rect", "line", "path", "polygon", "polyline"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize("name", CASES)
def test_a_page_is_whole_and_needs_nothing_from_elsewhere(name):
    html = Report(CASES[name], "demand", "Oslo", on_drift()).to_html()

    page = Page(html)

    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not [attrs for _, attrs in page.tags if {"src", "href", "onload", "onclick", "xlink:href"} & set(attrs)]
    assert not re.search(r"https?:|//\w|@import|url\(|nan%|inf%|None", html)
    assert CASES[name].reason.lower() in page.text.lower()


@pytest.mark.parametrize("name", CASES)
def test_the_same_report_gives_the_same_page(name):
    assert Report(CASES[name]).to_html() == Report(CASES[name]).to_html()


@pytest.mark.parametrize("severity", list(Severity)[1:])
def test_severity_is_worded_coloured_and_shaped(severity):
    """S3-06: never colour alone."""
    html = Report(decided(column("price", 3, 2), severity=severity, drift_type=DriftType.DATA)).to_html()

    assert f"{severity.upper()} · {severity.action}" in html
    assert f'<header class="{severity}">' in html
    pill = html[html.index('class="pill"') :]
    assert pill.index("<svg") < pill.index(severity.upper())


def _luminance(colour: str) -> float:
    full = colour if len(colour) == 7 else "#" + "".join(2 * letter for letter in colour[1:])
    parts = [int(full[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_words_on_severity_colours_are_readable_in_light_and_dark():
    """Contrast at least 4.5, WCAG 2.2, 1.4.3."""
    html = Report(CASES["nothing to say"]).to_html()
    screen = html[: html.index("@media (max-width")].split("@media screen and (prefers-color-scheme: dark)")
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", part)) for part in screen)

    for colours in (light, {**light, **dark}):
        words = [("ink", "sheet"), ("soft", "sheet"), ("ink", "page"), ("soft", "page"), ("now", "sheet")]
        for front, back in [*words, *((f"on-{one}", str(one)) for one in Severity)]:
            bright, dim = sorted((_luminance(colours[front]), _luminance(colours[back])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (front, back)


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a & b < c",
    "\x1b[31mred\x00",
    "\u202eevil",
    "𝒳 数据 ñ",
    "x" * 5000,
    "\ud800",
    "$\\frac{",
]


def test_hostile_names_are_only_text():
    signals = [column(name, 3, 2) for name in HOSTILE]
    signals.append(Signal(HOSTILE[0], Family.QUALITY, HOSTILE[1], effect=1, floor=0.1, unit=HOSTILE[0]))
    signals.append(Signal(HOSTILE[1], Family.DATA, "ks", insufficient=HOSTILE[0]))
    shares = {"levels": HOSTILE, "reference": [1 / 9] * 9, "recent": [one / 36 for one in range(9)]}
    signals.append(column("levels", 5, 3, detail={"histogram": shares}))
    decision = decided(*signals, reason=HOSTILE[0], severity=Severity.MEDIUM, drift_type=DriftType.DATA)

    html = Report(decision, HOSTILE[0], HOSTILE[1]).to_html()

    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert HOSTILE[0] in page.text
    assert not [letter for letter in html if not letter.isprintable() and letter not in "\n\xa0"]
    assert html.encode()
    assert "x" * 100 not in page.text


def test_of_many_columns_thirty_are_drawn_and_the_rest_are_folded():
    decision = decided(
        *(column(f"column_{place:03d}", 6 - place / 100, 1) for place in range(500)),
        severity=Severity.LOW,
        drift_type=DriftType.DATA,
    )

    html = Report(decision).to_html()

    page = Page(html)
    assert sum(tag == "li" and attrs.get("class") == "counts" for tag, attrs in page.tags) == 30
    assert "470 more" in page.text
    assert "column_499" in page.text
    assert len(html) < 500_000


def test_features_are_sorted_by_effect_with_their_floor_marked():
    decision = decided(column("small", 0.5, 0), column("large", 4, 3), column("middle", 2, 2))

    html = Report(decision).to_html()

    bars = html[html.index('<ol class="bars">') : html.index("</ol>")]
    assert re.findall(r"<li[^>]*><b><bdi>(\w+)", bars) == ["large", "middle", "small"]
    assert bars.count('class="floor" x1="20%"') == 3
    assert re.findall(r'class="full" width="([\d.]+)%"', bars) == ["80.0", "40.0", "10.0"]


def test_a_column_tested_twice_is_one_bar_with_its_larger_effect():
    missing = Signal("price", Family.QUALITY, "missing", effect=0.03, floor=0.02, grade=1)

    html = Report(decided(column("price", 4, 3), missing)).to_html()

    bars = html[html.index('<ol class="bars">') : html.index("</ol>")]
    assert bars.count("<li ") == 1
    assert "4.0&nbsp;×" in bars


def test_losses_are_drawn_with_their_change():
    page = Page(Report(CASES["critical with a change"]).to_html())

    assert "changed 2026-05-10" in page.text
    assert "The mean absolute error was 0.3 at promotion and is 0.42 since 2026-05-10: +40 %." in page.text
    assert sum(tag == "circle" and attrs.get("class") == "dot" for tag, attrs in page.tags) == len(SERIES)


def test_what_was_insufficient_is_told_with_its_reason():
    page = Page(Report(CASES["all insufficient"]).to_html())

    assert "Nothing can be said yet" in page.text
    assert "40 comparisons of 40 could not be made" in page.text
    assert "40 rows, 100 needed" in page.text


@pytest.mark.parametrize("name", CASES)
def test_the_figure_can_be_saved(name, tmp_path):
    Report(CASES[name], "demand", "Oslo").plot().savefig(tmp_path / "report.png")

    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_is_saved_as_utf8(tmp_path):
    report = Report(CASES["critical with a change"], "größe", "東京")
    report.save(tmp_path / "report.html")

    assert (tmp_path / "report.html").read_text(encoding="utf-8") == report.to_html()


def test_a_missing_matplotlib_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(ConfigError, match=r"pip install 'evertrain\[plot\]'"):
        Report(CASES["no labels"]).plot()


@pytest.mark.parametrize("kind", list(DriftType)[1:])
def test_every_kind_of_change_is_explained_with_impact_and_solution(kind):
    """S3-21."""
    decision = decided(column("price", 3, 2), severity=Severity.MEDIUM, drift_type=kind)
    page = Page(Report(decision).to_html())

    told = EXPLANATIONS[kind]
    meaning = next(one for one in lines(decision)[0].children if told.what in one.text)
    assert [one.text for one in meaning.children] == [told.impact, f"What to do: {told.solution}"]
    assert f"What it means {told.what}" in page.text
    assert f"Impact {told.impact}" in page.text
    assert f"What to do {told.solution}" in page.text


def test_tenths_with_equal_edges_are_one_bin_and_no_row_is_lost():
    told = {
        "edges": [0.0, 0.0, 0.0, 2.0, 5.0],
        "reference": [0.5, 0, 0, 0.2, 0.2, 0.1],
        "recent": [0.3, 0, 0, 0.4, 0.2, 0.1],
    }

    found = read.histogram(column("x", 2, 1, detail={"histogram": told}))

    assert found is not None
    assert found.reference == (0.5, 0.2, 0.2, 0.1)
    assert found.recent == (0.3, 0.4, 0.2, 0.1)
    assert found.ticks == ((1.0, "0"), (2.0, "2"), (3.0, "5"))


def test_shares_of_the_most_frequent_values_are_not_blown_up_to_all():
    told = {"levels": ["a", 7.0], "reference": [0.3, 0.2], "recent": [0.1, 0.2]}

    found = read.histogram(column("x", 2, 1, detail={"histogram": told}))

    assert found is not None
    assert found.moved() == [("a", 0.3, 0.1), ("7", 0.2, 0.2)]


@pytest.mark.parametrize("profile", ["default", "seed"])
def test_what_a_real_check_found_is_drawn(profile):
    random = np.random.default_rng(3)
    old = pd.DataFrame({"size": random.normal(80, 20, 2000), "town": random.choice(["Graz", "Linz"], 2000)})
    new = pd.DataFrame(
        {"size": random.normal(95, 20, 1000), "town": random.choice(["Graz", "Linz"], 1000, p=[0.9, 0.1])}
    )
    actual = random.normal(0, 1, 1000)
    predicted = actual + random.normal(0, np.where(np.arange(1000) < 600, 1.0, 2.0))
    times = pd.date_range("2026-05-01", periods=1000, freq="h")

    config = on_drift(profile=profile)
    decision = should_retrain(
        old, new, predicted, actual, {"rmse": 1.0, "r2": 0.5}, ref_losses=random.normal(0, 1, 500) ** 2, times=times,
        config=config,
    )  # fmt: skip
    report = Report(decision, config=config)

    page = Page(report.to_html())
    assert decision.fired
    assert "The mean squared error was" in page.text
    assert sum(tag == "circle" and attrs.get("class") == "dot" for tag, attrs in page.tags) >= 40
    assert "changed 2026-05-2" in page.text
    assert ("Graz" in page.text) == (profile == "default")
    assert ("tenths of the reference" in page.text) == (profile == "default")
    assert len(report.plot().axes) == (6 if profile == "default" else 3)


# --- lines ------------------------------------------------------------------------------------------------------


def texts(found: list[Line] | tuple[Line, ...]) -> list[str]:
    return [text for line in found for text in (line.text, *texts(line.children))]


def test_the_tree_tells_severity_confidence_and_every_family_with_its_floors():
    told = texts(lines(CASES["critical with a change"], on_drift()))

    assert told[0] == "CRITICAL (retrain now): drift fired, asks for retraining"
    assert "97 % sure that the model has become worse" in told
    assert "performance: very strong" in told
    assert "loss, scan of the losses: 40 % of the baseline loss, 2.7 x its floor 15 %, p 1e-09: very strong" in told
    assert "price, distribution: 0.32 KS distance, 4.0 x its floor 0.08, p 0.01: very strong" in told


def rising(ratio: float, p: float = 1e-12) -> Evidence:
    told = {"before": 1.0, "after": 1.0 + ratio, "ratio": ratio, "window": 300, "loss": "squared error"}
    loss = Signal("loss", Family.PERFORMANCE, "loss_scan", p, ratio, 0.15, "of the baseline loss", detail=told)
    return Evidence((loss, column("price", 1.5, 0, p=1e-9)), 5000, 800, 600, 1e-9, ratio, 0.0004, 1.0)


def under(found: list[Line], title: str) -> list[str]:
    return [child.text for line in found[0].children if line.text == title for child in line.children]


def test_the_tree_says_what_would_have_made_it_fire_and_that_is_true():
    config = on_drift()
    decision = decide(rising(0.2), config)

    told = under(lines(decision, config), "would have fired with")

    assert told == [
        "severity high: a rise of the loss by 30 % beyond chance; now 20 %",
        "severity='medium' instead of 'high'",
    ]
    assert not decision.fired
    assert decide(rising(0.2), on_drift(severity="medium")).fired
    assert decide(rising(0.31), config).fired


def test_the_tree_says_what_would_have_kept_it_from_firing_and_that_is_true():
    config = on_drift()
    decision = decide(rising(0.4), config)

    told = under(lines(decision, config), "would not have fired with")

    assert decision.fired
    assert told == ["severity='critical' instead of 'high'", "no signal of performance"]
    assert not decide(rising(0.4), on_drift(severity="critical")).fired


def test_a_confidence_that_was_wanted_is_what_kept_it_from_firing():
    config = on_drift(min_confidence=99, severity="low")
    decision = decide(rising(0.05), config)

    told = under(lines(decision, config), "would have fired with")

    assert f"min_confidence={decision.confidence} instead of 99" in told
    assert decide(rising(0.05), on_drift(min_confidence=decision.confidence, severity="low")).fired
