"""Paths have one normal form, and the best route wins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l7.routing.hosts import HostCover
from l7.routing.matcher import Matcher
from l7.routing.path import PathRefused, normalise
from orchestrator.contract.route import Host, PathMatchKind, Route


def route(name: str, path: str, kind: PathMatchKind = PathMatchKind.PREFIX) -> Route:
    return Route(name=name, kind=kind, path=path, backend=name)


def exact(name: str, path: str) -> Route:
    return route(name, path, PathMatchKind.EXACT)


def host(name: str, *routes: Route) -> Host:
    return Host(name=name, owner="team", routes=routes)


def find(matcher: Matcher, name: str, path: str) -> str | None:
    target = matcher.match(name.encode(), path.encode())
    return target.route if target is not None else None


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/", b"/"),
        (b"/a/b.html", b"/a/b.html"),
        (b"/a/b/", b"/a/b/"),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"/...", b"/..."),
        (b"//a///b//", b"/a/b/"),
        (b"/a/./b/../c", b"/a/c"),
        (b"/a/b/..", b"/a/"),
        (b"/a/.", b"/a/"),
        (b"/%61%2D%7e", b"/a-~"),
        (b"/%c3%bc", b"/%C3%BC"),
        (b"/%2e%2e%2Fx".replace(b"%2F", b"/"), None),
        (b"/a/%2E%2e/b", b"/b"),
        (b"/a%2525", b"/a%2525"),
        (b"/%252e%252e/", b"/%252e%252e/"),
        (b"/a;v=1/b", b"/a;v=1/b"),
    ],
)
def test_normal_form(path: bytes, normal: bytes | None) -> None:
    if normal is None:
        with pytest.raises(PathRefused):
            normalise(path)
    else:
        assert normalise(path) == normal


@given(st.text("/.%2eEfF5cC;ab~", max_size=30))
def test_the_normal_form_is_final_and_hides_no_dot_segment(text: str) -> None:
    try:
        path = normalise(b"/" + text.encode())
    except PathRefused:
        return
    assert normalise(path) == path
    assert b"//" not in path
    assert not {b".", b".."} & set(path.split(b"/"))


@pytest.mark.parametrize(
    "path", [b"a" * 8000, b"a/" * 4000, b"./" * 4000, b"%61" * 2700, b"a" * 8000 + b"\\", b"/" * 8000]
)
def test_a_long_path_takes_no_long_time(path: bytes) -> None:
    """Against patterns that could match in many ways: with such a one this test does not end."""
    try:
        normalise(b"/" + path)
    except PathRefused as refused:
        assert refused.reason == "path_character"


def test_priority_of_routes() -> None:
    matcher = Matcher(
        [
            host(
                "www.example.com",
                route("root", "/"),
                route("a", "/a"),
                route("ab", "/a/b/"),
                exact("exact", "/a/b"),
                route("twin-2", "/twin"),
                route("twin-1", "/twin/"),
            )
        ]
    )
    cases = {
        "/": "root",
        "/x": "root",
        "/a": "a",
        "/a/": "a",
        "/ab": "root",
        "/a/x": "a",
        "/a/bc": "a",
        "/a/b": "exact",
        "/a/b/": "ab",
        "/a/b/c/d/e/f": "ab",
        "/twin": "twin-1",
    }
    assert {path: find(matcher, "www.example.com", path) for path in cases} == cases
    assert matcher.explain().splitlines()[0] == "www.example.com = /a/b → exact (exact)"
    assert matcher.explain().splitlines()[-1] == "www.example.com ^ / → root (root)"


def test_an_exact_host_beats_a_wildcard_and_decides_alone() -> None:
    matcher = Matcher([host("*.example.com", route("wild", "/")), host("www.example.com", exact("one", "/one"))])
    assert find(matcher, "www.example.com", "/one") == "one"
    assert find(matcher, "www.example.com", "/two") is None
    assert find(matcher, "api.example.com", "/two") == "wild"
    assert find(matcher, "a.b.example.com", "/") is None, "a wildcard stands for one label"
    assert find(matcher, "example.com", "/") is None
    assert find(matcher, "", "/") is None


def test_a_route_that_nothing_could_match_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"hosts\[www.example.com\].routes\[bad\].path: '/a%2Fb' matches no request"):
        Matcher([host("www.example.com", route("bad", "/a%2Fb"))])


def test_a_route_in_another_form_matches_all_the_same() -> None:
    assert find(Matcher([host("www.example.com", exact("a", "/%7Ea//b"))]), "www.example.com", "/~a/b") == "a"


@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=4), min_size=1, max_size=12), st.lists(st.sampled_from("abc"))
)
def test_the_matcher_agrees_with_its_definition(prefixes: list[list[str]], wanted: list[str]) -> None:
    paths = {f"/{'/'.join(prefix)}" for prefix in prefixes}
    matcher = Matcher([host("www.example.com", *(route(f"r{n}", path) for n, path in enumerate(sorted(paths))))])
    path = f"/{'/'.join(wanted)}"
    fitting = [each for each in paths if path == each or path.startswith(each.rstrip("/") + "/")]
    names = {each: f"r{n}" for n, each in enumerate(sorted(paths))}
    assert find(matcher, "www.example.com", path) == (names[max(fitting, key=len)] if fitting else None)


def test_the_number_of_routes_does_not_matter() -> None:
    matcher = Matcher([host("www.example.com", *(route(f"r{n}", f"/team/{n}") for n in range(5000)), route("r", "/"))])
    assert find(matcher, "www.example.com", "/team/4711/x") == "r4711"
    assert find(matcher, "www.example.com", "/team/5000") == "r"


def test_what_a_certificate_covers() -> None:
    cover = HostCover(["www.example.com", "*.example.org"])
    assert cover.covers(b"www.example.com")
    assert cover.covers(b"any.example.org")
    assert not cover.covers(b"example.org")
    assert not cover.covers(b"a.b.example.org")
    assert not cover.covers(b"")
