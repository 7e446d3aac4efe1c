"""What users may import, call and catch: listed here, so that a change to it is seen."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval import errors
from retrieval.cli.app import _VERBS

ROOT = Path(__file__).parents[1]

SURFACE = {
    "retrieval": {"__version__"},
    "retrieval.client": {
        "Candidate",
        "Crowding",
        "Effort",
        "Entity",
        "Explanation",
        "Filter",
        "Ranking",
        "RetrievalClient",
        "ScoreResult",
        "SearchResult",
        "ShardExplanation",
        "Source",
        "Timings",
        "Tls",
        "Vector",
        "all_of",
        "any_of",
        "between",
        "equal",
        "filter_from_json",
        "is_in",
        "negated",
    },
    "retrieval.store": {
        "Generation",
        "Lease",
        "Manifest",
        "Mirror",
        "RemoteSettings",
        "RemoteStore",
        "ShardFiles",
        "ShardManifest",
        "Store",
    },
    "retrieval.indexes": {"ShardIndex", "open_index"},
    "retrieval.kernel": {
        "Codes",
        "Graph",
        "bitmap",
        "code_width",
        "count_rows",
        "encode",
        "levels",
        "rescore",
        "scan",
        "scan_is_cheaper",
        "score",
        "spread",
    },
    "retrieval.catalogue": {"judgments", "pins", "products", "sample_queries"},
}
VERBS = [
    "demo",
    "recipe",
    "train",
    "evaluate",
    "enrich",
    "embed",
    "build",
    "rebuild",
    "tune",
    "verify",
    "check",
    "gate",
    "generations",
    "publish",
    "rollback",
    "gc",
    "serve",
    "search",
    "upsert",
    "delete",
    "explain",
]


@pytest.mark.parametrize("module", SURFACE)
def test_a_module_exports_what_is_listed(module: str) -> None:
    loaded = importlib.import_module(module)
    assert set(loaded.__all__) == SURFACE[module]
    for name in SURFACE[module]:
        assert getattr(loaded, name) is not None


def test_the_error_tree_is_the_drawn_one() -> None:
    drawn = [line.split("─ ")[1].split()[0] for line in (errors.__doc__ or "").splitlines() if "─ " in line]
    defined = [
        name for name, value in vars(errors).items() if isinstance(value, type) and value is not errors.RetrievalError
    ]
    assert sorted(drawn) == sorted(defined)
    assert all(issubclass(getattr(errors, name), errors.RetrievalError) for name in defined)


def test_the_verbs_are_listed() -> None:
    assert list(_VERBS) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_function_with_a_docstring(verb: str) -> None:
    module, function, _ = _VERBS[verb]
    tree = ast.parse(Path(ROOT, *module.split(".")).with_suffix(".py").read_text())
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    assert found, f"{module} has no function {function}"
    assert ast.get_docstring(found[0])


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--help"], 0, "Run the whole path on the shipped catalogue."),
        (["no-such-verb"], 2, "No such command"),
        (["serve"], 2, "setting store is missing"),
        (["generations", "/nonexistent"], 1, "retrieval: /nonexistent is not a store"),
    ],
)
def test_the_command_answers_in_one_sentence(arguments: list[str], code: int, sentence: str) -> None:
    done = subprocess.run([sys.executable, "-m", "retrieval.cli", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code, done.stderr
    assert sentence in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_packages_are_typed() -> None:
    for package in ("retrieval", "index_builders", "bench"):
        assert (ROOT / package / "py.typed").exists()
