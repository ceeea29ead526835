"""The dashboard rendered in this process: what each page says, to whom, and that nothing in it is more than text."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from evertrain import Project, Series, Settings, max_age, on_drift
from evertrain.control.opened import Opened
from evertrain.dashboard import PAGES, STATIC, Page, drawing, error_page, login_page, prepare
from evertrain.errors import EvertrainError, NotFound
from evertrain.events import Kind
from evertrain.server import rights
from evertrain.store.tokens import Caller, Role

from .dashboard_kit import ADDRESSES, MARKUP, TOWNS, a_shop

# Elements of HTML that have no end.
VOID = {"meta", "link", "input", "img", "br", "hr"}
ELSEWHERE = re.compile(r"/static/[\w.]+|/api/docs|/login|/logout")


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""
    within: tuple[str, ...] = ()


@dataclass
class Seen(HTMLParser):
    """Every element of a page, with its own text."""

    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[Element] = []

    def handle_starttag(self, tag, attrs):
        one = Element(tag, {name: value or "" for name, value in attrs}, within=tuple(e.tag for e in self.open))
        self.elements.append(one)
        if tag not in VOID:
            self.open.append(one)

    def handle_startendtag(self, tag, attrs):
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> ends nothing"
        assert self.open[-1].tag == tag, f"</{tag}> ends <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.open[-1].text += data

    def every(self, tag: str) -> list[Element]:
        return [one for one in self.elements if one.tag == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(one.text for one in self.elements).split())


def seen(text: str) -> Seen:
    found = Seen()
    found.feed(text)
    found.close()
    assert not found.open, f"<{found.open[-1].tag}> never ends"
    return found


def place(path: str) -> tuple[Page, dict[str, str]]:
    """Return the page that answers a path, with its parameters, as the server finds it."""
    for page in PAGES:
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(page.path))
        if found := re.fullmatch(pattern, path):
            return page, {name: unquote(value) for name, value in found.groupdict().items()}
    raise AssertionError(f"{path} is no page")


def show(opened: Opened, address: str, role: Role = Role.ADMIN) -> str:
    path, query = urlsplit(address).path, dict(parse_qsl(urlsplit(address).query, keep_blank_values=True))
    page, params = place(path)
    return page.render(opened, Caller("ana", role, 7), params, query)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    with a_shop(tmp_path_factory.mktemp("shop")) as project:
        yield project.opened


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """A project in which nothing has happened yet."""
    project = Project("empty", root=tmp_path_factory.mktemp("empty"), executor="inline")
    sales = project.dataset("sales", key=["id"], time="day")
    project.model("kg", sales, target="kg", trainer="toys:Line", features=["x"], triggers=[on_drift("1d")])
    yield project.opened
    project.close()


@pytest.fixture(scope="module")
def pages(shop: Opened) -> dict[str, Seen]:
    return {address: seen(show(shop, address)) for address in ADDRESSES}


# --- only text ----------------------------------------------------------------------------------------------------


def assert_nothing_runs(page: Seen) -> None:
    for one in page.elements:
        named = set(one.attributes)
        assert one.tag not in ("style", "iframe", "object", "embed", "base"), one
        assert "style" not in named, one
        assert not [name for name in named if name.startswith("on") or name == "srcdoc"], one
        for name in ("href", "src", "action", "xlink:href"):
            assert not re.match(r"\s*([a-z]+:|//)", one.attributes.get(name, ""), re.IGNORECASE), one
    scripts = page.every("script")
    assert [one.attributes.get("src") for one in scripts] == ["/static/evertrain.js"]
    assert not scripts[0].text


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_page_holds_no_script_no_style_and_no_other_host(pages, address):
    """The content security policy allows none of them, so a page with one would be broken or worse."""
    assert_nothing_runs(pages[address])


def test_names_that_are_markup_stay_text(pages):
    """A-14: markup, quotes, marks of writing direction and control characters in values that people upload."""
    page = pages["/models/kg"]
    links = [one for one in page.every("bdi") if "alert(1)" in one.text]
    assert links, "the name is shown"
    assert MARKUP in page.text
    assert "\\u202e" in page.text, "a mark that turns the line around is shown, not obeyed"
    assert "\\x07bell" in page.text
    for one in pages.values():
        assert not set(one.text) & {"\x00", "\x07", "\u202e"}
    assert "<b>orders looked wrong</b>" in " ".join(one.text for one in pages["/models/line"].every("title"))


@pytest.mark.parametrize("town", TOWNS)
def test_every_partition_has_an_address_whatever_its_name(shop, pages, town):
    """A-14: a name with a slash, a quote or a control character is found again by the link that the search box gives."""
    found = [
        one.attributes["href"] for one in pages["/models/kg"].every("a") if "town=" in one.attributes.get("href", "")
    ]
    query = [dict(parse_qsl(urlsplit(one).query)) for one in found]
    assert {"town": town} in query
    page = seen(show(shop, found[query.index({"town": town})]))
    assert "Partition:" in page.text


@pytest.mark.parametrize("page", [login_page("<b>no</b>"), error_page(404, "<i>", "<script>x</script>", None)])
def test_pages_without_a_project_hold_only_text_too(page):
    assert_nothing_runs(seen(page))


def test_the_login_page_says_why_the_last_token_was_refused():
    page = seen(login_page("This token has expired."))
    alert = next(one for one in page.elements if one.attributes.get("role") == "alert")
    assert alert.text == "This token has expired."
    form = page.every("form")[0].attributes
    assert (form["action"], form["method"]) == ("/login", "post")
    assert not [one for one in seen(login_page(None)).elements if one.attributes.get("role") == "alert"]


# --- what holds together ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_link_leads_to_a_page(shop, pages, address):
    for one in pages[address].every("a") + pages[address].every("form"):
        target = one.attributes.get("href") or one.attributes.get("action") or ""
        path = urlsplit(target).path
        if path and not ELSEWHERE.fullmatch(path):
            place(path)


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_action_is_one_that_the_service_knows(pages, address):
    """A button whose request nobody answers is worse than none."""
    for one in pages[address].elements:
        asked = one.attributes.get("data-api", "").split(" ")
        if len(asked) == 2:
            assert asked[0] in rights.find(unquote(asked[1])), one
        if path := one.attributes.get("data-path"):
            dialog = next(
                e for e in pages[address].every("dialog") if e.attributes["id"] == one.attributes["data-open"]
            )
            form = pages[address].elements[pages[address].elements.index(dialog) + 1].attributes
            assert form["data-api"] in rights.find(unquote(path) + form["data-tail"]), one


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_referred_to_is_there_once(pages, address):
    page = pages[address]
    ids = Counter(one.attributes["id"] for one in page.elements if "id" in one.attributes)
    assert [name for name, number in ids.items() if number > 1] == []
    for one in page.elements:
        for name in ("aria-labelledby", "aria-describedby", "data-open", "data-say", "data-sayto", "for"):
            for wanted in one.attributes.get(name, "").split():
                assert wanted in ids, f"{name}={wanted} of <{one.tag}> names nothing"
        if "data-part" in one.attributes:
            assert one.attributes.get("id"), f"<{one.tag}> is exchanged by its id"


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_screen_reader_finds_its_way(pages, address):
    page = pages[address]
    assert len(page.every("h1")) == len(page.every("main")) == 1
    assert page.every("html")[0].attributes["lang"] == "en"
    assert [one for one in page.every("a") if one.attributes["href"] == "#main"], "a link that skips the navigation"
    for one in page.elements:
        if one.tag in ("input", "select") and one.attributes.get("type") != "hidden":
            assert "label" in one.within or "aria-label" in one.attributes, f"{one} has no label"
        if one.tag == "svg":
            assert one.attributes.keys() & {"aria-hidden", "aria-label", "aria-labelledby"}, f"{one} says nothing"
        if one.tag == "th":
            assert one.attributes.get("scope") == "col"


@pytest.mark.parametrize("address", ADDRESSES)
def test_charts_are_drawn_with_finite_numbers(pages, address):
    for one in pages[address].elements:
        for name in ("x", "y", "cx", "cy", "width", "height", "points", "d", "x1", "x2", "y1", "y2", "value", "max"):
            assert not re.search(r"nan|inf|None", one.attributes.get(name, "")) or one.tag in ("option", "input"), one


# --- who sees what ------------------------------------------------------------------------------------------------


def actions(page: Seen) -> set[str]:
    return {
        name
        for one in page.elements
        for name in (one.attributes.get("data-api"), one.attributes.get("data-open"), one.attributes.get("data-path"))
        if name
    } | {"each" for one in page.elements if "data-each" in one.attributes}


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_viewer_sees_no_button_that_a_viewer_may_not_use(shop, address):
    page = seen(show(shop, address, Role.VIEWER))
    assert actions(page) == set()
    assert page.every("dialog") == [one for one in page.every("dialog") if one.attributes["id"] == "drawer"]


def test_an_operator_acts_and_an_admin_starts_the_loop(shop):
    operator, admin = (actions(seen(show(shop, "/", role))) for role in (Role.OPERATOR, Role.ADMIN))
    assert {"retrain", "retrain-all", "pause-all"} <= operator
    assert not [one for one in operator if "monitoring" in one]
    assert [one for one in admin if "monitoring" in one]


def test_what_destroys_asks_first_and_names_the_consequences(pages):
    page = pages["/models/line"]
    rollback = next(one for one in page.every("dialog") if one.attributes["id"] == "rollback")
    assert [one for one in page.every("button") if one.attributes.get("data-open") == "rollback"]
    assert rollback.attributes["aria-labelledby"] == "rollback-title"
    assert "serves now" in page.text
    assert "Nothing is deleted" in page.text


# --- what is said -------------------------------------------------------------------------------------------------


def test_the_overview_tells_each_model_at_a_glance(pages):
    text = pages["/"].text
    for told in ("Needs you", "line", "kg", "1.0.0", "of 24 h", "mae", "Last decision", "Next run", "Retrain now"):
        assert told in text, told


def test_the_page_of_a_model_marks_promotions_refusals_and_rollbacks(pages):
    page = pages["/models/line"]
    kinds = Counter(
        one.attributes["class"] for one in page.every("g") if one.attributes.get("class", "").startswith("mark ")
    )
    # The legend has one of each.
    assert kinds["mark promoted"] >= 3
    assert kinds["mark rejected"] >= 2
    assert kinds["mark rollback"] >= 2
    said = [one.text for one in page.every("title")]
    assert any(re.match(r"1\.2\.0 rejected: mae [\d.]+ against [\d.]+", one) for one in said), said
    assert any(one.startswith("back to 1.0.0 by ") for one in said), said


def test_the_page_of_a_model_tells_its_drift_check(pages):
    text = pages["/models/line"].text
    assert "did not fire" in text
    assert "What moved" in text


def test_a_forecast_is_drawn_and_told_as_a_table(pages):
    page = pages["/models/kg"]
    assert "Forecast of" in page.text
    charts = [one for one in page.every("polyline") if one.attributes["class"] == "path actual"]
    assert len(charts[0].attributes["points"].split()) == 28, "the days that were ingested"
    cells = [one.attributes["data-of"] for one in page.every("td") if one.attributes.get("data-of") == "Period"]
    assert len(cells) == 3, "one row for each period ahead"


def test_the_search_box_finds_by_part_of_a_name(pages):
    found = [one for one in pages["/models/kg?q=script"].every("a") if "town=" in one.attributes.get("href", "")]
    assert len(found) == 1
    assert "No partition has" in pages["/models/kg?q=nobody"].text


def test_batches_are_listed_with_undo(pages):
    page = pages["/data"]
    undo = [one.attributes["data-path"] for one in page.every("button") if one.attributes.get("data-open") == "undo"]
    assert "/api/v1/datasets/sales/batches/1" in undo
    assert "/api/v1/datasets/sales/batches/2" not in undo, "it is undone already"
    assert "undo of batch 2" in page.text
    assert "112 added rows would be taken out" in " ".join(
        one.attributes.get("data-told", "") for one in page.every("button")
    )


def test_notifications_tell_of_promotions_as_the_channel_admin_is_told(pages):
    """S1-21: "Model retrained: <type> v<new> (<score>: <value>)" on channel admin."""
    text = pages["/notifications"].text
    assert "Channel admin" in text
    assert re.search(r"Model retrained: line v1\.1\.0 \(mae: [\d.]+\)", text), text


def test_every_number_of_the_report_has_its_unit(pages):
    """S3-19 on a page."""
    text = pages["/report"].text
    assert re.search(r"Retrainings \d+ [\d.]+ a week", text), text[:600]
    assert re.search(r"Success rate \d+ %", text)


def test_moments_can_be_read_without_the_script_and_by_it(pages):
    for one in pages["/events"].every("time"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(Z|\+00:00)", one.attributes["datetime"])
        assert re.search(r"\d\d:\d\d UTC", one.text)


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/models/kg",
        "/runs",
        "/data",
        "/schedules",
        "/decisions",
        "/events?kind=run.ended",
        "/report",
        "/notifications",
    ],
)
def test_an_empty_list_says_how_to_fill_it(empty, address):
    page = seen(show(empty, address))
    hints = [one.text for one in page.every("code")]
    assert any(one.startswith("evertrain ") for one in hints), page.text


def test_a_folder_without_a_declaration_says_what_to_do(tmp_path):
    from evertrain.config import Home
    from evertrain.store.connect import Store
    from evertrain.store.migrations import migrate

    store = Store("sqlite:///evertrain.db", tmp_path)
    migrate(store)
    page = seen(show(Opened(Home(tmp_path), store, Settings()), "/"))
    assert "evertrain init" in page.text
    store.close()


@pytest.mark.parametrize(
    "address",
    ["/models/nobody", "/models/kg?town=nobody", "/runs/99", "/runs/one", "/runs/\u0662", "/events?model=nobody"],
)
def test_what_does_not_exist_is_named(shop, address):
    if "events" in address:
        assert "No event like that" in seen(show(shop, address)).text
        return
    with pytest.raises(NotFound):
        show(shop, address)


@pytest.mark.parametrize(
    "address",
    ["/runs?cursor=x", "/runs?state=x", "/report?last=x", "/report?price=x", "/decisions?cause=x", "/events?kind=x"],
)
def test_a_query_that_means_nothing_is_refused_by_name(shop, address):
    with pytest.raises(EvertrainError, match="allowed"):
        show(shop, address)


# --- at the size that is claimed ------------------------------------------------------------------------------------

_MANY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
_VERDICT = '{"outcome":"promoted","reason":"better","score":"mae","challenger":10.0,"champion":11.0,"improvement":9.0}'
_SERIES = '{"series":{"freq":"D","last":20480,"as_of":"2026-01-28","fallback":null,"level":[80]}}'
_FRAME = '{"ds":["2026-01-29","2026-01-30","2026-01-31"],"mean":[1,2,3],"lo-80":[0,1,2],"hi-80":[2,3,4]}'


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """A forecasting model of 100,000 partitions, each of which serves, behind two full runs."""
    project = Project("large", root=tmp_path_factory.mktemp("large"), executor="inline")
    sales = project.dataset("sales", key=["id"], time="day")
    project.model(
        "kg", sales, target="kg", trainer="toys:Repeat", series=Series(h=3, freq="D", level=(80,)), partition_by="town",
        triggers=[max_age("30d")],
    )  # fmt: skip
    with project.opened.store.write() as tx:
        at = {"at": tx.now_text}
        tx.run("INSERT INTO artifacts(digest, size, created_at) VALUES ('x', 1, :at)", **at)
        tx.run(
            f"{_MANY} INSERT INTO partitions(id, model_id, key, leaf, rows, wanted, planned, considered, trained, trained_at)"
            " SELECT 1000 + i, 1, json_object('town', 'town ' || i), 1, 28, 1, 1, 1, 1, :at FROM n",
            **at,
        )
        for run in (1, 2):
            tx.run(
                "INSERT INTO runs(id, model_id, state, kind, cause, reason, actor, items, partitions, created_at, started_at,"
                " ended_at, outcomes) VALUES (:run, 1, 'succeeded', 'full', 'upload', 'new rows', 'ana', 100000, 100000,"
                " :at, :at, :at, '{\"promoted\": 100000}')",
                run=run, **at,
            )  # fmt: skip
            tx.run(
                "INSERT INTO versions(id, model_id, run_id, major, minor, created_at) VALUES (:run, 1, :run, 1, :run, :at)",
                run=run,
                **at,
            )
            tx.run(
                f"{_MANY} INSERT INTO items(id, run_id, model_id, partition_id, state, cause, correction, available_at, seconds)"
                " SELECT :run * 1000000 + i, :run, 1, 1000 + i, 'promoted', 'upload', 1, '', 0.01 FROM n",
                run=run,
            )
            tx.run(
                f"{_MANY} INSERT INTO fits(id, version_id, partition_id, artifact, start, size, digest, trainer, verdict,"
                " scores, rows, input, wanted, signature, trained_at) SELECT :run * 1000000 + i, :run, 1000 + i, 'x', 0, 1,"
                " 'x', '{}', :verdict, '{}', 28, 'version:1', 1, :series, :at FROM n",
                run=run, verdict=_VERDICT, series=_SERIES, **at,
            )  # fmt: skip
            tx.run(
                f"{_MANY} INSERT INTO activations(partition_id, fit_id, from_at, until_at, actor, why)"
                " SELECT 1000 + i, :run * 1000000 + i, :at, CASE WHEN :run = 1 THEN :at END, 'ana', 'better' FROM n",
                run=run, **at,
            )  # fmt: skip
            tx.event(Kind.RUN_ENDED, model="kg", run_id=run, state="succeeded", outcomes={"promoted": "1-100000"})
        tx.run(
            f"{_MANY} INSERT INTO forecasts(fit_id, frame, backtest) SELECT 2000000 + i, :frame, '{{}}' FROM n",
            frame=_FRAME,
        )
        tx.run("UPDATE partitions SET champion_id = 2000000 + id - 1000 WHERE id > 1000")
    yield project.opened
    project.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "address",
    ["/", "/models/kg", "/models/kg?town=town+77777", "/models/kg?q=town+99999", "/models/kg?q=nobody", "/runs", "/runs/2",
     "/runs/2?state=promoted", "/data", "/schedules", "/decisions", "/events", "/report", "/notifications"],
)  # fmt: skip
def test_a_page_of_a_hundred_thousand_partitions_takes_less_than_300_ms(large, address):
    """The best of three: another process on this machine is not the page's fault."""
    prepare()
    took = []
    for _ in range(3):
        begun = time.perf_counter()
        text = show(large, address)
        took.append(time.perf_counter() - begun)
    assert min(took) < 0.3, took
    assert len(text) < 120_000, "a page is a page at any size"
    if address == "/":
        assert "100,000 of 100,000 serve" in seen(text).text


# --- the files ----------------------------------------------------------------------------------------------------


def test_there_is_one_small_script_that_evaluates_nothing():
    scripts = list(STATIC.glob("*.js"))
    assert [one.name for one in scripts] == ["evertrain.js"]
    text = scripts[0].read_text()
    assert len(text) < 25_000
    for word in (
        "eval",
        "new Function",
        "innerHTML",
        "outerHTML",
        "document.write",
        "insertAdjacentHTML",
        "import(",
        ".style",
    ):
        assert word not in text, word
    assert "://" not in text, "no other host"


def test_the_styles_load_nothing():
    text = (STATIC / "style.css").read_text()
    assert "@import" not in text
    assert "url(" not in text


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(one * 2 for one in colour[1:])
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        ("ink", "page"), ("ink", "sheet"), ("ink", "raised"), ("soft", "page"), ("soft", "sheet"), ("soft", "raised"),
        ("blue", "sheet"), ("blue", "page"), ("blue", "blue-soft"), ("on-blue", "blue"), ("good", "good-soft"),
        ("mild", "mild-soft"), ("high", "high-soft"), ("bad", "bad-soft"), ("quiet", "quiet-soft"), ("bad", "sheet"),
        ("sheet", "bad"), ("ink", "quiet-soft"),
    ],
)  # fmt: skip
def test_words_stand_out_from_what_is_behind_them(ink, paper, dark):
    """WCAG 2.2, 1.4.3: at least 4.5 to 1, in both themes."""
    text = (STATIC / "style.css").read_text()
    block = text[text.index(':root[data-theme="dark"]') :] if dark else text
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", block[: block.index("}")]))
    one, two = sorted((luminance(colours[ink]), luminance(colours[paper])), reverse=True)
    assert (one + 0.05) / (two + 0.05) >= 4.5


def test_the_dark_theme_is_the_same_by_choice_and_by_the_system():
    text = (STATIC / "style.css").read_text()
    chosen = re.search(r':root\[data-theme="dark"\] \{(.*?)\}', text, re.DOTALL)
    system = re.search(r':root:not\(\[data-theme="light"\]\) \{(.*?)\}', text, re.DOTALL)
    assert chosen[1].split() == system[1].split()


# --- geometry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.71, 0.98), (-3.0, 7e9), (5.0, 5.0), (0.0, 0.0), (-1e-9, 1e-9)]
)
def test_a_grid_of_round_numbers_spans_the_values(low, high):
    found = drawing.nice(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 12


def test_a_sparkline_of_equal_values_is_level():
    found = drawing.spark([2.0, 2.0, 2.0])
    assert {one.split(",")[1] for one in found.points.split()} == {"14"}
    assert drawing.spark([1.0]) is None
    assert drawing.spark([1.0, float("nan")]) is None
