"""The rules of the house that no other tool checks: who may import whom, how long a module may be,
and how many there are.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
TOPS = ("eloftr", "pipeline", "jobs", "benchmarks")
MOST_MODULES = 9  # of a folder, beside __init__
MOST_LINES = 400
MOST_LINES_OF_A_JOB = 20
ONLY_RAY = "pipeline/execute/on_ray.py"

# Which rooms a room may import. A room is a folder; "pipeline" are the files at its top, and
# "pipeline.front" is its
# __init__, which calls the rooms. Modules of one room may import each other.
NETWORK = {"eloftr", "eloftr/fast"}
MODEL = {
    *NETWORK,
    *(f"eloftr/{room}" for room in ("weights", "formats", "hf", "matching", "training")),
}
TOP = {*MODEL, "pipeline"}
ROOMS_OF_PHOTOS = ("photos", "photos/cameras", "photos/panoramas", "photos/identity")
ROOMS_OF_MATCHING = (
    *("names", "store", *ROOMS_OF_PHOTOS, "masks", "pairs", "pairs/poses", "execute"),
    *("match", "match/turns", "match/detail"),
)
MATCH = {*TOP, *(f"pipeline/{room}" for room in ROOMS_OF_MATCHING)}
RECONSTRUCT = {
    f"pipeline/reconstruct{room}"
    for room in (
        *("", "/cameras", "/merging", "/tracks", "/refine", "/blocks", "/joining", "/positions"),
        "/poses",
        "/models",
        "/exports",
        "/localize",
        "/world",
        "/growing",
    )
}
JOBS = {*MATCH, "pipeline/rerank", *RECONSTRUCT}
REPORT = {"pipeline/report", "pipeline/report/page", "pipeline/report/page/scene"}
ABOVE = {
    "eloftr": NETWORK,
    "eloftr/fast": NETWORK,
    "eloftr/weights": NETWORK,
    "eloftr/training": {*NETWORK, "eloftr/weights", "eloftr/training/synthetic"},
    "eloftr/training/synthetic": NETWORK,
    "eloftr/formats": NETWORK,
    "eloftr/hf": {
        *NETWORK,
        "eloftr/weights",
        "eloftr/formats",
        "eloftr/training",
    },  # the loss of the training, for labels
    "eloftr/matching": {*NETWORK, "eloftr/weights", "eloftr/hf"},
    "pipeline": MODEL,
    "pipeline/store": TOP,
    "pipeline/names": TOP,
    "pipeline/photos": {*TOP, "pipeline/names", "pipeline/store", "pipeline/photos/panoramas"},
    "pipeline/photos/cameras": {*TOP, "pipeline/names", "pipeline/store"},
    "pipeline/photos/panoramas": {*TOP, "pipeline/store", "pipeline/photos"},
    "pipeline/photos/identity": {*TOP, "pipeline/store", "pipeline/photos"},
    "pipeline/masks": {*TOP, "pipeline/store", "pipeline/photos", "pipeline/photos/panoramas"},
    "pipeline/pairs": {
        *TOP,
        *(f"pipeline/{room}" for room in ("names", "store", *ROOMS_OF_PHOTOS)),
        "pipeline/pairs/poses",
    },
    "pipeline/pairs/poses": {
        *TOP,
        *(f"pipeline/{room}" for room in ("names", "store", *ROOMS_OF_PHOTOS, "pairs")),
    },
    "pipeline/execute": {"eloftr", "pipeline"},
    "pipeline/match": MATCH,
    "pipeline/match/turns": MATCH,
    "pipeline/match/detail": MATCH,
    "pipeline/rerank": MATCH,
    "pipeline/reconstruct": {*MATCH, *RECONSTRUCT},
    "pipeline/reconstruct/cameras": MATCH,
    "pipeline/reconstruct/merging": {
        *MATCH,
        "pipeline/reconstruct",
        "pipeline/reconstruct/cameras",
    },
    "pipeline/reconstruct/tracks": MATCH,
    "pipeline/reconstruct/refine": {
        *MATCH,
        "pipeline/reconstruct",
        "pipeline/reconstruct/cameras",
        "pipeline/reconstruct/tracks",
    },
    "pipeline/reconstruct/blocks": {*MATCH, "pipeline/reconstruct"},
    "pipeline/reconstruct/positions": {
        *MATCH,
        "pipeline/reconstruct",
        "pipeline/reconstruct/tracks",
    },
    "pipeline/reconstruct/poses": {
        *MATCH,
        *(
            f"pipeline/reconstruct{room}"
            for room in ("", "/blocks", "/cameras", "/positions", "/tracks")
        ),
    },
    "pipeline/reconstruct/joining": {*MATCH, *RECONSTRUCT},
    "pipeline/reconstruct/models": {*MATCH, *RECONSTRUCT},
    "pipeline/reconstruct/world": {*MATCH, *RECONSTRUCT},
    "pipeline/reconstruct/growing": {*MATCH, *RECONSTRUCT},
    "pipeline/reconstruct/exports": {
        *MATCH,
        "pipeline/reconstruct/tracks",
        "pipeline/reconstruct/models",
    },
    "pipeline/reconstruct/localize": {
        *MATCH,
        "pipeline/reconstruct/cameras",
        "pipeline/reconstruct/tracks",
        "pipeline/reconstruct/refine",
        "pipeline/reconstruct/models",
    },
    "pipeline/report": JOBS,
    "pipeline/report/page": {*JOBS, "pipeline/report", "pipeline/report/page/scene"},
    "pipeline/report/page/scene": {*JOBS, "pipeline/report"},
    "pipeline/demo": {*JOBS, *REPORT, "pipeline.front"},
    "pipeline/front": {*JOBS, *REPORT, "pipeline/demo"},
    "pipeline.front": {*JOBS, *REPORT, "pipeline/demo", "pipeline/front"},
    "pipeline/cli": {
        *JOBS,
        *REPORT,
        "pipeline/demo",
        "pipeline/front",
        "pipeline.front",
    },
    "pipeline/cli/commands": {
        *JOBS,
        *REPORT,
        "pipeline/demo",
        "pipeline/front",
        "pipeline.front",
        "pipeline/cli",
    },
    "pipeline/cli/models": {
        *JOBS,
        *REPORT,
        "pipeline/demo",
        "pipeline/front",
        "pipeline.front",
        "pipeline/cli",
    },
    "pipeline/cli/photographs": {
        *JOBS,
        "pipeline/report",
        "pipeline/demo",
        "pipeline/front",
        "pipeline.front",
        "pipeline/cli",
        "pipeline/cli/models",
    },
    "jobs": {"pipeline/cli"},
}
# What may come from outside into the model, where a package is imported with its module; and what
# inside of functions,
# where it is asked for. typing_extensions and triton come with torch.
OF_THE_MODEL = {"torch", "numpy", "PIL", "safetensors", "typing_extensions", "triton"}
ASKED_FOR = {
    *("huggingface_hub", "onnx", "onnxruntime", "onnxscript"),
    *("pillow_heif", "pillow_jxl", "rawpy"),
}
NEVER = {"transformers", "cv2", "benchmarks", "jobs", "tests"}  # in the packages that are installed

# Public names that several modules define at their top, and why that is no confusion.
TWICE = {
    "BLOCKS": "sizes that a GPU kernel is tried with, and the schema of a large scene's blocks",
    "DTYPES": "names, and torch's types of these names; processes without torch check the names",
    "Run": "of a training, and of matching: packages that do not meet",
    "command": "the one of each module of cli/commands and cli/models",
    "draw_matches": "as transformers draws them, and with what verification says of each",
    "main": "what a process begins with",
    "match": "the model's on two photographs, and the pipeline's on a folder",
    "nearest": "cells of two images, and images of a folder",
    "refine": "keypoints of the network, and a model of the pipeline",
    "sample": "of pixels, and of pairs",
    "unit": "vectors of length one, of cameras and of descriptors",
}


@dataclass(frozen=True)
class Import:
    """One name that a module imports. top: outside of any function."""

    name: str
    line: int
    top: bool


def python_files(root: Path) -> list[Path]:
    return sorted(path for top in TOPS for path in (root / top).rglob("*.py"))


def module_name(root: Path, path: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.Module) -> Iterator[Import]:
    """Everything that a module imports at any depth. `from a import b` gives a.b."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    todo: list[tuple[ast.AST, bool]] = [(tree, True)]
    while todo:
        node, top = todo.pop()
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (Import(f"{base}.{alias.name}", node.lineno, top) for alias in node.names)
        todo += [
            (child, top and not isinstance(node, functions)) for child in ast.iter_child_nodes(node)
        ]


def room_of(root: Path, path: Path) -> str:
    folder = path.relative_to(root).parent.as_posix()
    return "pipeline.front" if (folder, path.name) == ("pipeline", "__init__.py") else folder


def resolved(name: str, modules: dict[str, Path]) -> str | None:
    """The module of ours that an imported name means; None where it is from outside."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = graph[todo.pop()] - seen
            seen |= new
            todo += new
        reached[start] = seen
    groups = {
        tuple(sorted(b for b in reached[a] if a in reached[b])) for a in graph if a in reached[a]
    }
    return [list(group) for group in sorted(groups)]


def broken_by_size(root: Path) -> Iterator[str]:
    """Modules with too many lines, and folders with too many modules."""
    counted: dict[str, int] = defaultdict(int)
    for path in python_files(root):
        where = path.relative_to(root)
        lines = len(path.read_text().splitlines())
        most = MOST_LINES_OF_A_JOB if where.parts[0] == "jobs" else MOST_LINES
        if lines > most:
            yield f"{where.as_posix()} has {lines} lines: at most {most}"
        counted[where.parent.as_posix()] += path.name != "__init__.py"
    for folder, count in counted.items():
        if count > MOST_MODULES and not folder.startswith("benchmarks"):
            yield f"{folder} has {count} modules: at most {MOST_MODULES}"


def broken_by(found: Import, where: str, room: str, other: str | None) -> str:
    """The end of the sentence about an import that breaks a rule; empty where it breaks none.

    other: the room of what is imported, None for a package from outside.
    """
    package = found.name.partition(".")[0]
    if not package:
        return ", a relative import"
    if package == "ray" and where != ONLY_RAY:
        return f": only {ONLY_RAY} imports ray"
    if room.startswith("benchmarks"):
        return ""
    if package in NEVER:
        return ", which is not installed with it"
    if other is not None:
        return "" if other == room or other in ABOVE[room] else f": {room} may not import {other}"
    if not where.startswith("eloftr/") or package in sys.stdlib_module_names | OF_THE_MODEL:
        return ""
    if package not in ASKED_FOR:
        return ", which the model does without"
    return " outside of a function: not everybody has it" if found.top else ""


def broken_rules(root: Path) -> list[str]:
    """A sentence for every rule of the house that the source tree below `root` breaks."""
    broken = [*broken_by_size(root)]
    modules = {module_name(root, path): path for path in python_files(root)}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        where, room = path.relative_to(root).as_posix(), room_of(root, path)
        if room not in ABOVE and not room.startswith("benchmarks"):
            broken.append(f"{where} lies in no room of the table")
            continue
        for found in imports(ast.parse(path.read_text())):
            target = resolved(found.name, modules)
            graph[name] |= {target} if target else set()
            why = broken_by(found, where, room, room_of(root, modules[target]) if target else None)
            if why:
                broken.append(f"{where}:{found.line} imports {found.name}{why}")
    return broken + [f"a circle of imports: {', '.join(group)}" for group in circles(graph)]


def defined(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Public names at the top of a module, and whether each is a constant."""
    for node in tree.body:
        found: list[tuple[str, bool]] = []
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found = [(node.name, False)]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [
                (n.id, True)
                for target in targets
                for n in ast.walk(target)
                if isinstance(n, ast.Name)
            ]
        yield from ((name, constant) for name, constant in found if not name.startswith("_"))


def names_of_several(root: Path) -> dict[str, list[str]]:
    """Public names that several modules of the packages define at their top.

    A constant that no other module imports is its own module's affair.
    """
    trees = {
        module_name(root, path): ast.parse(path.read_text())
        for top in ("eloftr", "pipeline")
        for path in (root / top).rglob("*.py")
    }
    imported = {found.name for tree in trees.values() for found in imports(tree)}
    places: dict[str, set[str]] = defaultdict(set)
    public: set[str] = set()
    for module, tree in trees.items():
        for name, constant in defined(tree):
            places[name].add(module)
            if not constant or f"{module}.{name}" in imported:
                public.add(name)
    return {name: sorted(places[name]) for name in sorted(public) if len(places[name]) > 1}


def test_the_house_keeps_its_rules() -> None:
    assert broken_rules(PROJECT) == []


def test_a_name_means_one_thing() -> None:
    found = names_of_several(PROJECT)
    assert {name: where for name, where in found.items() if name not in TWICE} == {}
    assert TWICE.keys() <= found.keys()  # what is defined once needs no excuse


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small house that keeps the rules, with a module in every room."""
    root = tmp_path_factory.mktemp("clean")
    for room in ABOVE:
        folder = root / ("pipeline" if room == "pipeline.front" else room)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
        (folder / "thing.py").write_text("import json\n")
    (root / "pipeline/execute/on_ray.py").write_text("import ray\n")
    (root / "eloftr/weights/hub.py").write_text(
        "import torch\n\ndef load():\n    import huggingface_hub\n"
    )
    (root / "pipeline/match/job.py").write_text(
        "from pipeline import thing\nfrom pipeline.store.thing import x\n"
    )
    assert broken_rules(root) == []
    return root


@pytest.mark.parametrize(
    ("path", "text", "rule"),
    [
        ("eloftr/thing.py", "import pipeline.thing", "eloftr may not import pipeline"),
        ("eloftr/thing.py", "import eloftr.hf.thing", "eloftr may not import eloftr/hf"),
        (
            "eloftr/weights/thing.py",
            "from eloftr.hf import thing",
            "eloftr/weights may not import eloftr/hf",
        ),
        ("eloftr/hf/thing.py", "import pyarrow", "imports pyarrow, which the model does without"),
        (
            "eloftr/weights/thing.py",
            "import huggingface_hub",
            "outside of a function: not everybody has it",
        ),
        (
            "eloftr/thing.py",
            "def f():\n    import transformers",
            "transformers, which is not installed with it",
        ),
        (
            "pipeline/thing.py",
            "def f():\n    from pipeline.store.thing import x",
            "pipeline may not import pipeline/store",
        ),
        (
            "pipeline/store/thing.py",
            "import pipeline.photos.thing",
            "pipeline/store may not import pipeline/photos",
        ),
        (
            "pipeline/photos/thing.py",
            "from pipeline.pairs import thing",
            "pipeline/photos may not import pipeline/pairs",
        ),
        (
            "pipeline/execute/thing.py",
            "import pipeline.store.thing",
            "pipeline/execute may not import pipeline/store",
        ),
        (
            "pipeline/match/thing.py",
            "import pipeline.report.thing",
            "pipeline/match may not import pipeline/report",
        ),
        (
            "pipeline/match/thing.py",
            "import pipeline.rerank.thing",
            "pipeline/match may not import pipeline/rerank",
        ),
        (
            "pipeline/rerank/thing.py",
            "import pipeline.reconstruct",
            "pipeline/rerank may not import pipeline/reconstruct",
        ),
        (
            "pipeline/demo/thing.py",
            "import pipeline.cli.thing",
            "pipeline/demo may not import pipeline/cli",
        ),
        (
            "pipeline/store/thing.py",
            "import pipeline",
            "pipeline/store may not import pipeline.front",
        ),
        (
            "pipeline/store/thing.py",
            "import benchmarks",
            "benchmarks, which is not installed with it",
        ),
        (
            "pipeline/match/thing.py",
            "class A:\n    def f(self):\n        import ray.data",
            "only pipeline/execute/on_ray.py",
        ),
        ("jobs/thing.py", "import ray", "only pipeline/execute/on_ray.py"),
        ("benchmarks/thing.py", "import ray", "only pipeline/execute/on_ray.py"),
        ("jobs/thing.py", "from pipeline.match import thing", "jobs may not import pipeline/match"),
        ("jobs/thing.py", "1\n" * 21, "jobs/thing.py has 21 lines: at most 20"),
        (
            "pipeline/match/thing.py",
            "1\n" * 401,
            "pipeline/match/thing.py has 401 lines: at most 400",
        ),
        ("benchmarks/thing.py", "1\n" * 401, "benchmarks/thing.py has 401 lines: at most 400"),
        ("pipeline/match/thing.py", "from . import job", "a relative import"),
        (
            "pipeline/store/thing.py",
            "import pipeline.store.other",
            "a circle of imports: pipeline.store.other, pipeline.store",
        ),
        (
            "pipeline/store/thing.py",
            "def f():\n    from pipeline.store import other",
            "a circle of imports",
        ),
        ("pipeline/attic/thing.py", "", "pipeline/attic/thing.py lies in no room of the table"),
        ("pipeline/match/ten.py", "", "pipeline/match has 10 modules: at most 9"),
    ],
)
def test_a_broken_rule_is_found(
    clean: Path, tmp_path: Path, path: str, text: str, rule: str
) -> None:
    root = Path(shutil.copytree(clean, tmp_path / "house"))
    (root / "pipeline/store/other.py").write_text(
        "def g():\n    from pipeline.store import thing\n"
    )
    for number in range(7):
        (root / f"pipeline/match/more{number}.py").touch()
    assert broken_rules(root) == []
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text(text)
    broken = broken_rules(root)
    assert len(broken) == 1, broken
    assert rule in broken[0]


def test_a_name_of_two_modules_is_found(clean: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(clean, tmp_path / "house"))
    (root / "eloftr/thing.py").write_text(
        "def cut(): ...\nclass _Own: ...\nFIRST, SIZE = 1, 2\nOWN = 1\n"
    )
    (root / "pipeline/thing.py").write_text("cut: int = 1\nclass _Own: ...\nSIZE = 3\nOWN = 2\n")
    (root / "pipeline/other.py").write_text("from eloftr.thing import FIRST, SIZE\n")
    assert names_of_several(root) == {
        "SIZE": ["eloftr.thing", "pipeline.thing"],
        "cut": ["eloftr.thing", "pipeline.thing"],
    }


def test_the_table_of_the_documents_names_the_rooms_that_there_are() -> None:
    lines = (PROJECT / "docs" / "design.md").read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if re.match(r"\| *room *\|", line))
    named: set[str] = set()
    package = ""
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first = line.split("|")[1]
        for bold in re.findall(r"\*\*(\w+)/\*\*", first):
            package = bold
            named.add(bold)
        folders = re.findall(r"`([\w/]+)/`", first)
        named |= {
            name if name.partition("/")[0] in TOPS else f"{package}/{name}" for name in folders
        }
    rooms = {
        folder.relative_to(PROJECT).as_posix()
        for top in ("eloftr", "pipeline", "jobs")
        for folder in (PROJECT / top, *(PROJECT / top).rglob("*"))
        if folder.is_dir() and any(folder.glob("*.py"))
    }
    assert named == rooms


@pytest.mark.parametrize(
    "module",
    [
        "pipeline",
        "pipeline.execute.local",
        "pipeline.execute.worker",
        "pipeline.match.read",
        "pipeline.reconstruct.job",  # of the command and of COLMAP's process
    ],
)
def test_what_holds_no_model_imports_neither_torch_nor_ray(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'ray'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


def test_processes_of_ray_that_hold_no_model_do_not_import_torch() -> None:
    code = "import sys, pipeline.execute.on_ray; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


def test_processes_of_every_stage_import_neither_torch_nor_scipy_before_they_work() -> None:
    """A process that is killed begins with its imports again, so each costs a run its seconds."""
    stages = "pipeline.match.match, pipeline.match.finish, pipeline.match.turns.probe"
    code = f"import sys, {stages}; sys.exit(bool({{'torch', 'scipy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0
