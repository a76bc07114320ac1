"""Who may import whom (docs/architecture.md), and how large a file may grow."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fedq"
LOW = {"errors", "rng", "options", "plugins"}
ALLOWED = {
    "errors": set(),
    "rng": set(),
    "options": set(),
    "until": {"errors"},
    "sections": {"options", "data"},
    "plugins": {"errors"},
    "settings": {"errors"},
    "_flower": set(),
    "kernels": LOW - {"options"} | {"_flower"},
    "models": LOW | {"kernels"},
    "data": LOW,
    "participation": LOW,
    "privacy": LOW,
    "strategies": LOW | {"kernels", "participation", "_flower", "messages", "steps", "privacy"},
    "clients": LOW | {"kernels", "models", "data", "_flower", "messages", "steps", "privacy"},
    "attacks": LOW | {"messages", "kernels", "data", "strategies", "passing"},
    "grids": {"_flower", "errors"},
    "passing": {"_flower"},
    "ledger": {"_flower", "passing"},
    "steps": set(),
    "messages": {"errors", "_flower"},
    "rounds": {"errors", "kernels", "ledger", "strategies"},
    "runs": {"errors"},
    "finding": {"errors", "runs"},
    "bench": {"errors", "kernels", "rng", "build", "config", "data", "models", "settings"},
    "report": {
        "errors",
        "plugins",
        "finding",
        "runs",
        "sections",
        "settings",
        "kernels",
        "attacks",
        "clients",
        "models",
        "strategies",
        "participation",
        "data",
        "rng",
        "_flower",
        "testing",
    },
}
HEAVY = {
    "runs": {"torch", "flwr"},
    "report": {"torch"},
    "strategies": {"torch", "opacus"},
    "privacy": {"torch", "flwr"},
    "participation": {"torch", "flwr"},
    "kernels": {"torch"},
    "rounds": {"torch"},
    "cli": {"torch", "flwr"},
}


def imports(file: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(file.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names if node.module == "fedq"}
    return names


def files(part: str) -> list[Path]:
    return list((PACKAGE / part).rglob("*.py")) if (PACKAGE / part).is_dir() else [PACKAGE / f"{part}.py"]


@pytest.mark.parametrize("part", ALLOWED)
def test_layer(part: str) -> None:
    for file in files(part):
        ours = {n.split(".")[1] for n in imports(file) if n.startswith("fedq.")} - {part}
        assert ours <= ALLOWED[part], f"{file.name} imports {ours - ALLOWED[part]}"


@pytest.mark.parametrize("part", HEAVY)
def test_light(part: str) -> None:
    for file in files(part):
        heavy = {n.split(".")[0] for n in imports(file, top_level=part in ("cli", "report"))} & HEAVY[part]
        assert not heavy, f"{file.name} imports {heavy}"


def test_every_part_has_a_layer() -> None:
    parts = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    whole = "__init__ __main__ alone build fit cli config deploy scaffold simulation sweep testing"  # they know all
    assert parts - set(whole.split()) == set(ALLOWED)


def test_files_and_functions_stay_small() -> None:
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        assert text.count("\n") <= 400, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.body[0].lineno < 60, f"{file.name}:{node.name}"  # type: ignore[operator]


def test_only_one_file_knows_private_flower() -> None:
    public = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation")
    for file in PACKAGE.rglob("*.py"):
        private = {n for n in imports(file) if n.split(".")[0] == "flwr" and not n.startswith(public)}
        assert not private or file.name == "_flower.py", f"{file.name}: {private}"
