"""The wheel and its command, which work in any folder, its requirements, and the Makefile."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from recordings import ROOT

from bci_decode import __version__
from bci_decode.cli import COMMANDS

SUFFIXES = (".py", ".csv", ".html")
TINY = ["model=gru", "model.recurrent.hidden_size=8", "trainer.epochs=1", "session.minutes=1"]


def pip(*words: object) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the installed package and its script; others are those of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


def run(installed: Path, folder: Path, *words: object) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_every_file_of_the_package_and_of_conf(wheel):
    names = set(ZipFile(wheel).namelist())
    package = [path for path in (ROOT / "bci_decode").rglob("*") if path.suffix in SUFFIXES]
    expected = {path.relative_to(ROOT) for path in package}
    expected |= {"bci_decode" / path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml")}
    assert {path.as_posix() for path in expected} == {n for n in names if ".dist-info/" not in n}
    assert wheel.name.startswith(f"bci_decode-{__version__}-")


def test_the_installed_package_reads_its_own_conf(installed, tmp_path):
    code = "from bci_decode.runs.compose import CONF; print(CONF)"
    done = run(installed, tmp_path, sys.executable, "-c", code)
    assert done.stdout.strip() == str(installed / "bci_decode" / "conf"), done.stderr


def test_the_installed_command_trains_in_any_folder(installed, tmp_path):
    done = run(installed, tmp_path, installed / "bin" / "bci-decode", "train", *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "outputs/default/simulated/gru/seed0/metrics.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"data", "outputs"}


@pytest.mark.parametrize(
    "program", [["bin/bci-decode", "train"], [sys.executable, "-m", "bci_decode.train"]]
)
def test_the_installed_commands_list_sessions_and_models(installed, tmp_path, program):
    done = run(installed, tmp_path, installed / program[0], *program[1:], "--help")
    assert done.returncode == 0, done.stderr
    assert "lngru, " in done.stdout and "indy_20160927_04" in done.stdout
    assert not any(tmp_path.iterdir())


VERSIONS = runpy.run_path(str(ROOT / "scripts" / "versions_test.py"))
PROJECT = VERSIONS["tomllib"].loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
DISTRIBUTIONS = {
    "hydra": "hydra-core",
    "mlflow": "mlflow-skinny",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
PARTS = {"llvmlite": "numba", "triton": "torch"}  # what brings them, in the version that it needs


def libraries() -> set[str]:
    """The distributions of other projects that the package imports, by a statement or by name."""
    found = set()
    for path in (ROOT / "bci_decode").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module)
            elif isinstance(node, ast.Call) and called(node) in ("import_module", "library"):
                found |= {word.value for word in node.args if isinstance(word, ast.Constant)}
    names = {name.split(".")[0] for name in found} - sys.stdlib_module_names - {"bci_decode"}
    return {DISTRIBUTIONS.get(name, PARTS.get(name, name)) for name in names}


def called(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def names(requirements: list[str]) -> set[str]:
    return {VERSIONS["name"](requirement) for requirement in requirements}


def test_pyproject_requires_every_library_that_the_package_imports():
    optional = {name for extra in OPTIONAL if extra not in ("dev", "docs")
                for name in names(OPTIONAL[extra])}  # fmt: skip
    assert libraries() - optional == names(PROJECT["dependencies"]) - optional
    assert {"numba", "pylsl", "onnxruntime", "wandb"} <= libraries() & optional


@pytest.mark.parametrize("extra", [None, *OPTIONAL])
def test_every_requirement_has_a_lower_bound(extra):
    for requirement in OPTIONAL[extra] if extra else PROJECT["dependencies"]:
        assert re.match(r"[\w.-]+(\[\w+\])?>=\d", requirement), requirement


def test_the_oldest_versions_are_the_lower_bounds():
    exact = VERSIONS["exact"](["a>=1.2,<3", "b[c]>=0.1; python_version < '3.14'", "d>=4"])
    assert exact == ["a==1.2", "b[c]==0.1; python_version < '3.14'", "d==4"]
    tested = VERSIONS["requirements"](VERSIONS["EXTRAS"])
    assert len(names(tested)) == len(set(tested))  # no package has two bounds
    assert {*VERSIONS["EXTRAS"], *VERSIONS["SEPARATE"]} == set(OPTIONAL)


def test_the_classifiers_name_the_supported_versions_of_python():
    words = [one.rpartition(" :: ")[2] for one in PROJECT["classifiers"]]
    minors = [int(word.removeprefix("3.")) for word in words]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert PROJECT["requires-python"] == f">=3.{minors[0]}"
    assert sys.version_info.minor in minors


def bci_decode(*words: str) -> subprocess.CompletedProcess:
    code = "from bci_decode.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_names_every_command(words):
    done = bci_decode(*words)
    assert done.returncode == 0 and done.stdout.startswith("usage: bci-decode COMMAND")
    assert [line.split()[0] for line in done.stdout.splitlines()[2:-2]] == list(COMMANDS)


def test_version():
    assert bci_decode("--version").stdout == f"bci-decode {__version__}\n"


def test_an_unknown_command_is_refused_in_one_line():
    done = bci_decode("trian")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: trian: no such command; choose one of {', '.join(COMMANDS)}\n"


def make(*words: str) -> subprocess.CompletedProcess:
    """`make -n`, without what a `make test` around it hands down."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-n", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def make_help() -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", "help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def words_of(done: subprocess.CompletedProcess, command: str) -> list[str]:
    """What the shell hands to `bci-decode COMMAND`."""
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if f"bci-decode {command}" in line]
    return shlex.split(line)[2:]


FOLDERS = ["data_dir=data", "output_dir=outputs"]
BEST = "experiment=best"


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ([], [BEST, *FOLDERS]),
        (["model=gru"], [BEST, *FOLDERS, "model=gru"]),
        (["SESSION=indy_20160927_04"], [BEST, "session=indy_20160927_04", *FOLDERS]),
        (["seed=1", "model=gru"], [BEST, *FOLDERS, "model=gru", "seed=1"]),
        (["DATA=/d", "OUTPUT=o"], [BEST, "data_dir=/d", "output_dir=o"]),
        (["session.path=my file's.mat"], [BEST, *FOLDERS, "session.path=my file's.mat"]),
        (["session.name=sim${session.seed}"], [BEST, *FOLDERS, "session.name=sim${session.seed}"]),
        (["seed=range(1,3)", "ARGS=-m"], [BEST, *FOLDERS, "seed=range(1,3)", "-m"]),
        (["experiment=default"], [*FOLDERS, "experiment=default"]),
    ],
)
def test_make_train_passes_every_setting_on(given, passed):
    assert words_of(make("train", *given), "train") == passed


def test_make_compare_compares_the_runs_that_it_trains():
    done = make("compare", "experiment=mine", "output_dir=elsewhere")
    assert words_of(done, "train")[-2:] == ["experiment=mine", "output_dir=elsewhere"]
    assert words_of(done, "compare") == ["elsewhere/mine"]
    assert words_of(make("compare"), "compare") == ["outputs/source_study"]


@pytest.mark.parametrize("target", ["test", "data", "explain", "inspect", "help"])
def test_make_refuses_settings_where_they_have_no_effect(target):
    done = make(target, "session=indy_20160927_04")
    assert done.returncode == 2 and done.stdout == ""
    assert f"session=: `make {target}` takes no settings; its variables are" in done.stderr


def test_make_data_downloads_the_named_sessions():
    words = words_of(make("data", "SESSION=loco_* indy_20160927_04"), "download")
    assert words == ["loco_*", "indy_20160927_04", "--data-dir", "data"]


def test_make_setup_says_how_to_choose_the_build_of_pytorch(tmp_path):
    done = make("setup", f"VENV={tmp_path}/venv", "TORCH_INDEX=https://example.org/cpu")
    assert "TORCH_INDEX=" in done.stdout and "5 GB" in done.stdout
    assert "--extra-index-url https://example.org/cpu" in done.stdout
    assert "--extra-index-url" not in make("setup", f"VENV={tmp_path}/venv").stdout


def test_the_parts_in_the_help_of_make_explain_exist():
    (line,) = [line for line in make_help().splitlines() if line.startswith("  make explain")]
    (named,) = re.findall(r"--parts ([a-z ]+)", line)
    code = "import sys, explain; print(*sorted(set(sys.argv[1:]) - set(explain.PARTS)))"
    command = [sys.executable, "-c", code, *named.split()]
    done = subprocess.run(command, cwd=ROOT / "scripts", capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
