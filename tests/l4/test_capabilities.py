"""An agent that may not load programs says so at the start."""

from pathlib import Path

import pytest

from l4.capabilities import BPF, NET_ADMIN, SYS_ADMIN, NotPermitted, effective_capabilities, require_capabilities


@pytest.mark.parametrize("enough", [NET_ADMIN | BPF, NET_ADMIN | SYS_ADMIN, (1 << 41) - 1])
def test_enough_is_enough(enough: int) -> None:
    require_capabilities(enough)


@pytest.mark.parametrize(
    ("effective", "missing"), [(0, "CAP_NET_ADMIN and CAP_BPF"), (NET_ADMIN, "CAP_BPF"), (BPF, "CAP_NET_ADMIN")]
)
def test_what_is_missing_is_named(effective: int, missing: str) -> None:
    with pytest.raises(NotPermitted, match=f"lacks {missing}: run it as root"):
        require_capabilities(effective)


def test_the_kernel_is_asked(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tedge-l4\nCapInh:\t0000000000000000\nCapEff:\t0000008000001000\n")
    assert effective_capabilities(status) == BPF | NET_ADMIN
    assert effective_capabilities() >= 0
