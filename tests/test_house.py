"""The rules of the house that no other tool checks: who may import whom, and how long a module may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for top in ("eloftr", "pipeline", "jobs", "benchmarks") for path in (PROJECT / top).rglob("*.py"))
HEAVY = {"ray", "pyarrow", "pycolmap", "fsspec", "scipy", "transformers", "cv2"}
# Within pipeline/, a module may import those of lower rank; see the table of docs/design.md.
RANKS = [
    {"schemas", "progress", "drawing", "evaluation", "retries", "isolation"},
    {"storage", "report"},
    {"images", "pairs", "shards", "lease", "verification", "keypoints", "demo_scene"},
    {"matching", "spool", "candidates", "descriptors", "lists"},
    {"run", "colmap", "ranking", "sequences", "positions", "covisibility", "plan_options"},
    {"reranking", "retrieval"},
    {"dataflow", "reconstruction", "planning"},
]
RANK = {module: rank for rank, modules in enumerate(RANKS) for module in modules}


def imports(path: Path) -> set[str]:
    """Dotted names of everything a module imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(PROJECT).parts[0]
    if package == "eloftr":
        assert not tops(path) & (HEAVY | {"pipeline", "jobs", "benchmarks"})
    if package == "pipeline":
        assert not tops(path) & {"jobs", "benchmarks", "transformers", "cv2"}
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "pipeline" and len(parts) > 1 and parts[1] in RANK:
                assert RANK[parts[1]] < RANK[path.stem], f"{path.stem} imports {parts[1]}"
    if path != PROJECT / "pipeline" / "dataflow.py":
        assert "ray" not in tops(path)


def test_every_pipeline_module_has_a_rank() -> None:
    assert {path.stem for path in (PROJECT / "pipeline").glob("*.py")} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_modules_stay_readable(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= (80 if path.parent.name == "jobs" else 400), f"{lines} lines"


def test_processes_that_hold_no_model_do_not_import_torch() -> None:
    code = "import sys, pipeline.execute.on_ray; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0
