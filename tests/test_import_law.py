"""Who may import whom: the rooms of the house, as a table, held against every import statement."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
EVERYONE = {"retrieval", "types", "errors", "params"}
LAW: dict[str, set[str]] = {
    "retrieval": set(),
    "types": set(),
    "errors": set(),
    "params": set(),
    "pb": set(),
    "topk": set(),
    "spaces": set(),
    "kernel": set(),
    "catalogue": set(),
    "canaries": {"store", "topk"},
    "delta": {"topk", "kernel"},
    "store": {"spaces"},
    "indexes": {"topk", "kernel"},
    "towers": {"spaces", "topk"},
    "training": {"towers", "topk", "spaces", "catalogue"},
    "serving": {"canaries", "delta", "topk", "spaces", "store", "indexes", "towers", "kernel", "pb"},
    "client": {"pb"},
    "index_builders": {"canaries", "delta", "topk", "spaces", "store", "indexes", "towers", "kernel"},
    "cli": {
        "topk", "spaces", "store", "indexes", "towers", "training", "serving", "client", "catalogue", "index_builders",
    },
    "bench": {
        "topk", "spaces", "store", "indexes", "towers", "training", "serving", "client", "catalogue", "index_builders",
        "kernel", "pb", "cli", "delta", "canaries",
    },
}  # fmt: skip
NO_GRPC = {"index_builders", "delta", "towers", "training", "store", "indexes", "topk", "spaces", "kernel"}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] in {"index_builders", "bench"}:
        return parts[0]
    if parts[0] != "retrieval":
        return None
    return parts[1] if len(parts) > 1 else "retrieval"


def imports(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from retrieval import x` names the room in the imported name
            found += [
                f"{node.module}.{alias.name}" if node.module == "retrieval" else str(node.module)
                for alias in node.names
            ]
    return found


def sources() -> list[tuple[str, Path]]:
    paths = [path for top in ("retrieval", "index_builders", "bench") for path in (ROOT / top).rglob("*.py")]
    named = [(room_of(".".join(path.relative_to(ROOT).with_suffix("").parts)), path) for path in paths]
    return [(room if room != "__init__" else "retrieval", path) for room, path in named if room is not None]


def test_no_room_imports_what_the_law_forbids() -> None:
    breaches = []
    for room, path in sources():
        for module in imports(path):
            target = room_of(module)
            if target in {None, room, "__version__"} or target in EVERYONE or target in LAW[room]:
                continue
            breaches.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not breaches, "\n".join(breaches)


def test_the_law_has_no_circle() -> None:
    done: set[str] = set()

    def visit(room: str, way: tuple[str, ...]) -> None:
        assert room not in way, " -> ".join((*way, room))
        if room not in done:
            for target in LAW[room]:
                visit(target, (*way, room))
            done.add(room)

    for room in LAW:
        visit(room, ())


def test_only_serving_and_the_client_know_grpc() -> None:
    offenders = [
        str(path.relative_to(ROOT))
        for room, path in sources()
        if room in NO_GRPC and any(module.split(".")[0] in {"grpc", "grpc_health"} for module in imports(path))
    ]
    assert offenders == []
