"""Upgrades and downgrades: maps of another layout are made anew beside, then the program is replaced over the old one.

Another version is this one with other layout numbers, which is all that sets versions apart on a bpffs.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from l4 import pins
from l4.attachment import XdpMode, attached_program
from l4.balancer_program import BalancerProgram
from l4.bpf_call import pin
from l4.bpf_map import Map
from l4.ingress import IngressMap, IngressUnavailable
from l4.pins import LAYOUTS, pin_directory, pin_path
from l4.program_error import ProgramError
from l4.program_loader import assemble
from l4.redirector_program import RedirectorProgram
from tests.bpf.veth import NODE, feed, lost_during

pytestmark = pytest.mark.kernel

ROWS = 997
VIP_ID = 1


@contextmanager
def version(**layouts: int) -> Iterator[None]:
    """Inside, balancers are loaded as by a version with these layouts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pins, "LAYOUTS", {**LAYOUTS, "balancer": {**LAYOUTS["balancer"], **layouts}})
        yield


def pinned(bpffs: Path) -> set[str]:
    return {name.name for name in pin_directory(bpffs, "balancer").iterdir()}


def run_version(bpffs: Path, **layouts: int) -> None:
    """A whole upgrade (or downgrade) to a version, as its agent does it."""
    with version(**layouts):
        program = BalancerProgram(bpffs, rows=ROWS)
    feed(program)
    program.attach(NODE, XdpMode.AUTO)


@pytest.mark.parametrize("change", [1, -1], ids=["upgrade", "downgrade"])
def test_changed_maps_are_made_anew_under_traffic_and_the_others_go_on(
    pair: None, fresh_bpffs: Path, change: int
) -> None:
    run_version(fresh_bpffs)
    before = pinned(fresh_bpffs)
    other = {name: LAYOUTS["balancer"][name] + change for name in ("vips", "members", "settings")}
    sent, lost = lost_during(lambda: run_version(fresh_bpffs, **other))
    assert (sent > 16, lost) == (True, 0)
    assert pinned(fresh_bpffs) - before == {f"{name}-{layout}" for name, layout in other.items()}
    assert before - pinned(fresh_bpffs) == {f"{name}-{LAYOUTS['balancer'][name]}" for name in other}
    with version(**other):
        now = BalancerProgram(fresh_bpffs, rows=ROWS)
    assert now.counters()["forwarded"] == sent
    assert now.vip_counters()[VIP_ID][0] == sent
    BalancerProgram.detach(NODE)


def test_the_running_program_keeps_its_maps_until_it_is_replaced(pair: None, fresh_bpffs: Path) -> None:
    run_version(fresh_bpffs)
    before = pinned(fresh_bpffs)

    def die_half_way() -> None:
        with version(vips=90, members=91):
            feed(BalancerProgram(fresh_bpffs, rows=ROWS), owner=2)

    sent, lost = lost_during(die_half_way)
    assert (sent > 16, lost) == (True, 0)
    assert pinned(fresh_bpffs) - before == {"vips-90", "members-91"}
    run_version(fresh_bpffs)
    assert pinned(fresh_bpffs) == before, "the next agent, of whatever version, clears up"
    BalancerProgram.detach(NODE)


def leave_as_the_version_with_one_layout(bpffs: Path) -> None:
    """Turns this version's pins into those of the one whose maps had a layout in common, with its program running."""
    directory = pin_directory(bpffs, "balancer")
    for name, layout in LAYOUTS["balancer"].items():
        (present,) = directory.glob(f"{name}-*")
        if layout == 1:
            present.rename(directory / present.name.replace("-1", "", 1))
            continue
        present.unlink()
        with Map.create_array(name, 12, 7) as of_another_shape:
            pin(of_another_shape.descriptor, directory / name)
    with Map.create_array("layout", 4, 1) as layout_map:
        layout_map.update(bytes(4), (1).to_bytes(4, "little"))
        pin(layout_map.descriptor, directory / "layout")


def test_pins_of_the_time_before_layouts_of_their_own_are_taken_over_under_traffic(
    pair: None, fresh_bpffs: Path
) -> None:
    run_version(fresh_bpffs)
    fresh = pinned(fresh_bpffs)
    leave_as_the_version_with_one_layout(fresh_bpffs)
    assert {"layout", "vips", "vip_traffic", "tables"} <= pinned(fresh_bpffs)
    running = attached_program(NODE)
    sent, lost = lost_during(lambda: run_version(fresh_bpffs))
    assert (sent > 16, lost) == (True, 0)
    assert attached_program(NODE) != running
    assert pinned(fresh_bpffs) == fresh
    assert BalancerProgram(fresh_bpffs, rows=ROWS).vip_counters()[VIP_ID][0] == sent
    BalancerProgram.detach(NODE)


def test_a_map_of_the_right_name_and_another_shape_is_refused_with_words(fresh_bpffs: Path) -> None:
    RedirectorProgram(fresh_bpffs)
    name = pin_path(fresh_bpffs, "redirector", "ingress")
    name.unlink()
    with Map.create_array("ingress", 16, 8) as other:
        pin(other.descriptor, name)
    with pytest.raises(
        ProgramError, match=r"the map ingress pinned in .* is .*, this version needs .*; .*edge-l4 redirector detach"
    ):
        RedirectorProgram(fresh_bpffs)
    with pytest.raises(IngressUnavailable, match="has another layout"):
        IngressMap.open(fresh_bpffs)


@pytest.mark.parametrize(("program", "source"), [("balancer", "balancer.c"), ("redirector", "redirect.c")])
def test_every_pinned_map_has_a_layout_and_every_layout_a_map(program: str, source: str) -> None:
    text = assemble(source)
    assert sorted(re.findall(r"(?<!define )\bPIN\((\w+)\)", text)) == sorted(LAYOUTS[program])
