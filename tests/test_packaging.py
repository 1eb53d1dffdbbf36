"""The wheel: what it holds, what it asks for, and what works with the base dependencies alone."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = Path(__file__).resolve().parents[1]
SOURCES = [
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "eloftr",
    "pipeline",
    "jobs",
    "benchmarks",
    "tests",
]
INSTALLED = ["eloftr", "pipeline"]
DATA = [
    f"eloftr/weights/small/{name}"
    for name in ("calibration.json", "config.json", "model.safetensors")
]
ASSETS = {
    f"pipeline/report/page/assets/{path.name}"
    for path in (PROJECT / "pipeline" / "report" / "page" / "assets").iterdir()
}
TYPED = ["eloftr/py.typed", "pipeline/py.typed"]
EXTRAS = {"pipeline", "s3", "gs", "az", "hub", "heif", "jxl", "raw", "hloc", "all", "export"}
EXTRAS |= {"docs", "test"}

# Begins a program for which nothing of the extras is installed.
BASE_ALONE = """
import sys

REFUSED = "pyarrow pandas ray fsspec pycolmap scipy click tqdm tenacity".split()
REFUSED += "huggingface_hub transformers onnx cv2 pillow_heif pillow_jxl rawpy h5py".split()

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in REFUSED:
            return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network from a copy: a build leaves files among the sources."""
    folder = tmp_path_factory.mktemp("packaging")
    for name in SOURCES:
        source, copy = PROJECT / name, folder / "project" / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(source, copy)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        *options,
        "--wheel-dir",
        str(folder),
        str(folder / "project"),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    """Names of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path, contents: set[str]) -> Message:
    """The wheel's METADATA."""
    (name,) = (name for name in contents if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def unpacked(wheel: Path) -> Path:
    """A folder that holds what installing the wheel would put into site-packages."""
    folder = wheel.parent / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def requirements(metadata: Message) -> list[Requirement]:
    return [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]


def of_extra(metadata: Message, extra: str) -> dict[str, Requirement]:
    """The requirements that an extra adds, by name; those of the base for an empty extra."""
    everything = requirements(metadata)
    base = {one.name: one for one in everything if "extra" not in str(one.marker)}
    added = {
        one.name: one for one in everything if one.marker and one.marker.evaluate({"extra": extra})
    }
    return {name: one for name, one in added.items() if name not in base} if extra else base


def base_alone(program: str, unpacked: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the unpacked wheel and without the packages of the extras."""
    command = [sys.executable, "-c", BASE_ALONE + program, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        command, cwd=unpacked, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_all_modules_of_both_packages_and_nothing_else(contents: set[str]) -> None:
    modules = {
        str(path.relative_to(PROJECT))
        for name in INSTALLED
        for path in (PROJECT / name).rglob("*.py")
    }
    assert {name for name in contents if ".dist-info/" not in name} == {
        *modules,
        *DATA,
        *TYPED,
        *ASSETS,
    }


def test_the_base_needs_four_packages(metadata: Message) -> None:
    assert of_extra(metadata, "").keys() == {"torch", "numpy", "pillow", "safetensors"}


def test_every_extra_brings_what_its_name_says(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    assert {"ray", "pyarrow", "fsspec", "scipy", "click"} <= of_extra(metadata, "pipeline").keys()
    assert of_extra(metadata, "s3").keys() == {"s3fs", "obstore"}
    assert of_extra(metadata, "gs").keys() == {"gcsfs"}
    assert of_extra(metadata, "az").keys() == {"adlfs"}
    assert of_extra(metadata, "hub").keys() == {"huggingface-hub"}
    assert of_extra(metadata, "heif").keys() == {"pillow-heif"}
    assert of_extra(metadata, "jxl").keys() == {"pillow-jxl-plugin"}
    assert of_extra(metadata, "raw").keys() == {"rawpy"}
    assert of_extra(metadata, "hloc").keys() == {"h5py"}
    assert of_extra(metadata, "export").keys() == {"onnx", "onnxscript", "onnxruntime"}
    (everything,) = of_extra(metadata, "all").values()
    assert everything.extras == {
        *("pipeline", "s3", "gs", "az", "hub", "heif", "jxl", "raw", "hloc")
    }


def test_the_wheel_installs_one_command(wheel: Path, contents: set[str]) -> None:
    (name,) = (name for name in contents if name.endswith(".dist-info/entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(name).decode().split("\n") == [
            "[console_scripts]",
            "eloftr = pipeline.cli:main",
            "",
        ]


def test_every_requirement_is_constrained_to_one_version_that_it_allows(metadata: Message) -> None:
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    for requirement in requirements(metadata):
        if requirement.name != metadata["Name"]:
            version = versions[canonicalize_name(requirement.name)]
            assert version in requirement.specifier, f"{requirement}: constrained to {version}"


def test_the_newest_ray_that_is_allowed_is_the_one_that_the_tests_run_with(
    metadata: Message,
) -> None:
    (pin,) = (
        line
        for line in (PROJECT / "constraints.txt").read_text().splitlines()
        if line.startswith("ray==")
    )
    major, minor = Version(pin.removeprefix("ray==")).release[:2]
    asked = [one for one in requirements(metadata) if one.name == "ray"]
    assert asked
    for requirement in asked:
        assert f"{major}.{minor + 1}.0" not in requirement.specifier


def test_the_version_is_that_of_the_metadata(unpacked: Path, metadata: Message) -> None:
    done = base_alone("import eloftr; print(eloftr.__version__, eloftr.__file__)", unpacked)
    assert done.stdout.split() == [metadata["Version"], str(unpacked / "eloftr" / "__init__.py")], (
        done.stderr
    )


def test_the_base_alone_matches_two_images(unpacked: Path) -> None:
    done = base_alone(
        """
import numpy
from PIL import Image
import eloftr
noise = numpy.random.default_rng(0).integers(0, 256, (24, 32), dtype=numpy.uint8)
texture = Image.fromarray(noise).resize((256, 192))
found = eloftr.match(texture, texture, size=256)
print(len(found) > 100, [name for name in REFUSED if name in sys.modules])
""",
        unpacked,
    )
    assert done.stdout == "True []\n", done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["match", "--images", "photos", "--output", "run"]]
)
def test_the_command_names_the_extra_that_is_missing(arguments: list[str], unpacked: Path) -> None:
    done = base_alone("from pipeline.cli import main; sys.exit(main())", unpacked, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert 'pip install "eloftr-pipeline[pipeline]"' in sentence


# Of the standard library, names that Python 3.10 does not have.
NEW_IN_3_11 = {
    "asyncio": {"Runner", "TaskGroup", "timeout", "timeout_at"},
    "contextlib": {"chdir"},
    "datetime": {"UTC"},
    "enum": {"EnumCheck", "FlagBoundary", "StrEnum", "member", "nonmember", "verify"},
    "hashlib": {"file_digest"},
    "itertools": {"batched"},
    "math": {"cbrt", "exp2", "sumprod"},
    "typing": {"LiteralString", "Never", "NotRequired", "Required", "Self", "TypeVarTuple"}
    | {"Unpack", "assert_never", "assert_type", "dataclass_transform", "override"},
    "wsgiref.types": {"*"},
    "tomllib": {"*"},
}


def newer_names(source: str) -> set[str]:
    """What a module imports, or takes of a module, that is in NEW_IN_3_11."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in NEW_IN_3_11:
            new = NEW_IN_3_11[node.module]
            found |= {one.name for one in node.names if one.name in new or "*" in new}
        elif isinstance(node, ast.Import):
            found |= {one.name for one in node.names if "*" in NEW_IN_3_11.get(one.name, ())}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {node.attr} & NEW_IN_3_11.get(node.value.id, set())
    return found


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from datetime import UTC, datetime", {"UTC"}),
        ("import tomllib", {"tomllib"}),
        ("import asyncio\nasyncio.timeout(3)", {"timeout"}),
        ("from datetime import datetime, timezone", set()),
    ],
)
def test_names_of_a_newer_python_are_found(source: str, names: set[str]) -> None:
    assert newer_names(source) == names


def test_the_packages_use_nothing_that_the_oldest_python_lacks() -> None:
    files = [*PROJECT.glob("eloftr/**/*.py"), *PROJECT.glob("pipeline/**/*.py")]
    found = {str(path): newer_names(path.read_text()) for path in files}
    assert {path: names for path, names in found.items() if names} == {}
