"""Run the tests with the oldest versions that pyproject.toml allows, or with the newest ones.

Each PYTHON gets a new environment, .venv-oldest or .venv-newest, with what the project and its
extras need; "oldest" takes the lower bounds in pyproject.toml as exact versions.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("dev", "docs", "ezmsg", "fast", "live", "lsl", "onnx", "sweep", "tensorboard")
SEPARATE = ("mlflow", "wandb")  # extras of `make test-loggers`


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("versions", choices=["oldest", "newest"])
    option("python", nargs="+", metavar="PYTHON")
    option("--torch-index", metavar="URL", help="another build of PyTorch, as in `make setup`")
    option("--pytest", nargs=argparse.REMAINDER, metavar="WORDS",
           default=["-n", "auto", "--dist", "worksteal"],
           help="words for pytest, at the end: --pytest tests/data -x")  # fmt: skip
    arguments = parser.parse_args()
    failed = 0
    for python in arguments.python:
        packages = requirements(EXTRAS)
        if arguments.versions == "oldest":
            packages = exact(packages)
        environment = make(arguments.versions, python, packages, arguments.torch_index)
        failed = max(failed, run(environment, "-m", "pytest", *arguments.pytest, check=False))
    sys.exit(failed)


def requirements(extras: Iterable[str]) -> list[str]:
    """What pyproject.toml requires, for the project and extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(word for extra in extras for word in optional[extra])]


def name(requirement: str) -> str:
    return re.split(r"[\s\[<>=;]", requirement, maxsplit=1)[0]


def exact(words: Iterable[str]) -> list[str]:
    """The lower bounds as exact versions: `numpy>=1.24,<3; ...` becomes `numpy==1.24; ...`."""
    return [re.sub(r">=([\w.]+)[^;]*", r"==\1", word) for word in words]


def make(versions: str, python: str, packages: list[str], torch_index: str | None) -> Path:
    """Make an environment with packages and the project, and tell what it has; its Python."""
    folder = ROOT / f".venv-{versions}"
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    environment = folder / "bin" / "python"
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run(environment, *pip, "--upgrade", "pip")
    index = ["--extra-index-url", torch_index] if torch_index else []
    run(environment, *pip, *index, *packages)
    run(environment, *pip, "--no-deps", "--editable", ROOT)
    run(environment, "-m", "pip", "--disable-pip-version-check", "check")
    run(environment, "-c", TELL, *map(name, packages))
    return environment


TELL = """
import importlib.metadata, platform, sys
found = {one.metadata["Name"].lower(): one.version for one in importlib.metadata.distributions()}
named = [name for name in sys.argv[1:] if name.lower() in found]
print(f"Python {platform.python_version()}:", *(f"{name} {found[name.lower()]}" for name in named))
"""


def run(*words: str | Path, check: bool = True) -> int:
    """Run a program in the project's folder, without what a `make` around it hands down."""
    environment = {key: word for key, word in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(words, cwd=ROOT, env=environment, check=check).returncode


if __name__ == "__main__":
    main()
