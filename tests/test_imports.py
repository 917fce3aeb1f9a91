"""The import arrows of the architecture: which package may import which."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Package → the product's packages that it may import from, beside itself. Longest match wins.
ARROWS: dict[str, tuple[str, ...]] = {
    "l4": ("orchestrator.contract",),
    "l7": ("orchestrator.contract", "l4.ingress"),
    "orchestrator": (
        "orchestrator.config",
        "orchestrator.state",
        "orchestrator.fleet",
        "orchestrator.api",
        "orchestrator.contract",
    ),
    "orchestrator.contract": (),
    "orchestrator.config": ("orchestrator.contract",),
    "orchestrator.state": ("orchestrator.contract",),
    "orchestrator.fleet": ("orchestrator.contract", "orchestrator.config", "orchestrator.state"),
    "orchestrator.api": ("orchestrator.contract", "orchestrator.config", "orchestrator.state", "orchestrator.fleet"),
    "orchestrator.lab": ("orchestrator.contract",),
    "orchestrator.cli": ("l4", "l7", "orchestrator"),
}
PRODUCT = ("l4", "l7", "orchestrator")


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def package_of(module: str) -> str:
    return max((name for name in ARROWS if is_within(module, name)), key=len)


def modules() -> Iterator[tuple[str, Path]]:
    for top in PRODUCT:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def product_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide the arrow"
            names = [node.module or ""]
            if node.module in ARROWS or node.module == "l4":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PRODUCT)


def forbidden(module: str, imported: str) -> bool:
    home = package_of(module)
    return not is_within(imported, home) and not any(is_within(imported, allowed) for allowed in ARROWS[home])


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_follow_the_arrows(module: str, path: Path) -> None:
    assert [name for name in product_imports(path) if forbidden(module, name)] == []


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("l4.maglev", "l7.worker"),
        ("l7.worker", "l4.maglev"),
        ("orchestrator.contract.vip", "orchestrator.fleet"),
        ("orchestrator.lab.topology", "l4.maglev"),
        ("orchestrator.fleet.drain", "orchestrator.cli"),
    ],
)
def test_a_backward_arrow_is_noticed(module: str, imported: str) -> None:
    assert forbidden(module, imported)
