from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.plan.published import Unpublished
from zoo.plan.sharing import Held, Holder, Sharing, find_sharing
from zoo.report.sharing import Section
from zoo.report.sharing_html import shared_html
from zoo.report.sharing_map import panels

VOID = {"meta", "br"}


class Checker(HTMLParser):
    """Well-formed as XML would have it: every tag closed, in order, ids unique; collects what tests ask about."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {attrs}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    ids = [attributes["id"] for _, attributes in checker.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    return checker


def held(path: str, content: str | None, size: int, kind: str = "decoder", *, place: object = None) -> Held:
    sha256 = None if content is None else hashlib.sha256(content.encode()).hexdigest()
    return Held(path, size, sha256, label=path.split("/", 1)[0], kind=kind, place=place or path)


def small_zoo() -> Sharing:
    text = [
        ("chunk1/weight.bin", "1", 600, "decoder"),
        ("embed.bin", "e", 2800, "embeddings"),
        ("x.json", "x", 1, "other"),
    ]
    more = [("chunk3/weight.bin", "1", 600, "decoder"), ("vision/weight.bin", "v", 340, "image")]
    one = Holder("text", "family", tuple(held(*file, place=("t", file[0])) for file in text))
    two = Holder("multimodal", "family", tuple(held(*file, place=("m", file[0])) for file in [*text, *more]))
    three = Holder("provisional", "other family", (held("model/w.bin", None, 500), held("t.json", None, 3)))
    return find_sharing([one, two, three])


def page_of(sharing: Sharing, waiting: tuple[Unpublished, ...] = ()) -> str:
    return shared_html([Section("hub", sharing), Section("disk", find_sharing([]))], waiting)


def test_the_page_stands_alone_and_is_well_formed() -> None:
    page = page_of(small_zoo(), (Unpublished("new", 3, 1000, 600),))
    checker = read(page)
    assert not re.search(r"https?:|//|url\(|@import|<link|<img|<iframe", re.sub(r"<!doctype html>", "", page))
    for tag, attributes in checker.tags:
        assert not {"src", "href"} & attributes.keys(), tag
        assert not any(name.startswith("on") for name in attributes), tag
    assert "prefers-color-scheme: dark" in page
    assert "new: 1.00 kB are not on the Hub yet; it can copy 600 B of them" in "".join(checker.text)


def test_the_policy_allows_exactly_the_script_that_is_there() -> None:
    page = page_of(small_zoo())
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for _, a in read(page).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_the_same_zoo_is_the_same_page() -> None:
    assert page_of(small_zoo()) == page_of(small_zoo())


def test_hostile_names_stay_text() -> None:
    name = '<script>alert("1")</script>&\'`--><!--'
    sharing = find_sharing([Holder(name, name, (held(name, "1", 9, name, place=1), held(f"{name}2", None, 9)))])
    checker = read(page_of(sharing, (Unpublished(name, 1, 1, 1),)))
    assert [tag for tag, _ in checker.tags].count("script") == 1
    assert name in "".join(checker.text)


def test_everything_on_the_map_is_in_the_tables() -> None:
    sharing = small_zoo()
    checker = read(page_of(sharing))
    text = " ".join(checker.text)
    for panel in panels(sharing):
        for column in panel.columns:
            assert column.label in text
    titles = [attributes["title"] for tag, attributes in checker.tags if "block" in str(attributes.get("class"))]
    assert any("chunk1 (language model): 600 B in 1 file, kept by text and multimodal" in str(t) for t in titles)
    assert any("several times by multimodal; 1.20 kB stored again" in str(t) for t in titles)
    assert any(title == "model (no digest: not known): 500 B in 1 file of provisional" for title in titles)
    images = [attributes for _, attributes in checker.tags if attributes.get("role") == "img"]
    assert images
    assert all(attributes.get("aria-label") for attributes in images)


def test_nothing_shared_is_a_page_too() -> None:
    sharing = find_sharing([Holder("only", "f", (held("a", "1", 5),))])
    text = "".join(read(page_of(sharing)).text)
    assert "no content is stored twice" in text
    assert "nothing is installed or built" in text
    assert "Pairs" not in text


FILES = st.tuples(st.sampled_from("abcdef"), st.sampled_from(["1", "2", "3", "4", None]), st.integers(1, 4))
ZOOS = st.lists(st.lists(FILES, max_size=6, unique_by=lambda file: file[0]), max_size=4)


@given(ZOOS, st.integers(1, 10**9))
def test_rows_are_as_long_as_what_they_keep(zoo: list[list[tuple[str, str | None, int]]], scale: int) -> None:
    holders = [
        Holder(
            f"holder{n}",
            f"family{n % 2}",
            # The size follows from the content, as it does in the world.
            tuple(held(p, c, scale ** (int(c) % 3) if c else s, place=(n, p)) for p, c, s in files),
        )
        for n, files in enumerate(zoo)
    ]
    sharing = find_sharing(holders)
    totals = {total.name: total for total in sharing.totals}
    drawn = panels(sharing)
    assert sorted(name for panel in drawn for name in panel.holders) == sorted(totals)
    for panel in drawn:
        edge = 0
        for column in panel.columns:
            assert column.start == edge
            assert column.rows
            edge += column.size
        assert edge == panel.size
        for name in panel.holders:
            filled = sum(column.size for column in panel.columns if name in column.rows)
            assert filled == totals[name].distinct + totals[name].unknown


@settings(max_examples=20)
@given(ZOOS)
def test_any_zoo_is_a_well_formed_page(zoo: list[list[tuple[str, str | None, int]]]) -> None:
    holders = [
        Holder(f"h{n}", "f", tuple(held(p, c, int(c) if c else s, place=(n, p)) for p, c, s in files))
        for n, files in enumerate(zoo)
    ]
    page = read(page_of(find_sharing(holders)))
    assert [name for name, _ in page.tags].count("html") == 1
