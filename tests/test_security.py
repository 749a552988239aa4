"""No code path runs what a file or a server says: checked in the source, module by module."""

from __future__ import annotations

import ast
import inspect

import pytest
from recordings import ROOT
from sources import PACKAGE, SCRIPTS, calls, docstrings, imported, is_constant, keyword, tree_of

from bci_decode.realtime.interfaces.page import PageSink
from bci_decode.realtime.stream.options import stream_parser

MODULES = {  # never imported: loading what they wrote runs code
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle",
}  # fmt: skip
CALLS = {
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "tempfile.mktemp", "joblib.load", "pandas.read_pickle", "yaml.unsafe_load", "yaml.full_load",
    "yaml.unsafe_load_all", "yaml.full_load_all", "torch.jit.load", "torch.package.PackageImporter",
    "ssl._create_unverified_context", "runpy.run_path",
}  # fmt: skip
NETWORK = {  # only `data/web.py`, which limits redirects, speed and size, and `realtime` servers
    "urllib.request.urlopen", "urllib.request.urlretrieve", "urllib.request.build_opener",
    "urllib.request.OpenerDirector", "http.client.HTTPConnection", "http.client.HTTPSConnection",
}  # fmt: skip
LIBRARIES = {"requests", "httpx", "urllib3", "aiohttp", "ftplib", "telnetlib", "xmlrpc"}
OPENER = ROOT / "bci_decode" / "data" / "web.py"
EVERYWHERE = {"0.0.0.0", "::", "[::]"}  # addresses of a server that the whole network reaches
MARKUP = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(")


def forbidden(tree: ast.AST) -> list[str]:
    """What a module does that would trust a stranger's file, server or network."""
    found = [
        f"imports {name}"
        for name in imported(tree).values()
        if name.split(".")[0] in MODULES | LIBRARIES
    ]
    found += [f"calls {name}" for _, name in calls(tree) if name in CALLS]
    texts = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in texts and node.value in EVERYWHERE:
            found.append(f"names {node.value}")
    for call, name in calls(tree):
        shell = keyword(call, "shell")
        pickled = keyword(call, "allow_pickle")
        if shell is not None and not is_constant(shell, False):
            found.append("starts a shell")
        if pickled is not None and not is_constant(pickled, False):
            found.append("allows pickles")
        if name == "torch.load" and not is_constant(keyword(call, "weights_only"), True):
            found.append("torch.load without weights_only=True")
        if name in ("yaml.load", "yaml.load_all"):
            loader = keyword(call, "Loader") or (call.args[1] if len(call.args) > 1 else None)
            if loader is None or "Safe" not in ast.unparse(loader):
                found.append("yaml.load without a safe loader")
        if name.endswith(".to_pickle"):
            found.append("writes a pickle")
    return found


def opens_addresses(tree: ast.AST) -> list[str]:
    used = {name for _, name in calls(tree)} | set(imported(tree).values())
    return sorted(used & NETWORK)


def test_nothing_is_trusted_that_a_stranger_may_have_made():
    found = {str(path.relative_to(ROOT)): forbidden(tree_of(path)) for path in PACKAGE + SCRIPTS}
    assert {path: acts for path, acts in found.items() if acts} == {}


def test_every_address_is_opened_in_one_module():
    found = [path for path in PACKAGE + SCRIPTS if opens_addresses(tree_of(path))]
    assert found == [OPENER]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import dill as json", "eval('1')",
        "import os\nos.system('x')", "from os import system as run\nrun('x')",
        "import subprocess\nsubprocess.run('x', shell=True)", "f(shell=yes)",
        "import torch\ntorch.load('x')", "import torch\ntorch.load('x', weights_only=False)",
        "from torch import load\nload('x')", "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import yaml\nyaml.load(f)", "import yaml\nyaml.load(f, yaml.Loader)",
        "import yaml\nyaml.load(f, Loader=yaml.FullLoader)",
        "from yaml import unsafe_load as l\nl(f)",
        "import joblib\njoblib.load('x')", "import tempfile\ntempfile.mktemp()",
        "host = '0.0.0.0'", "def f(host='::'): ...", "import requests", "frame.to_pickle('x')",
        "import pandas as pd\npd.read_pickle('x')", "def f():\n    from marshal import loads",
    ],
)  # fmt: skip
def test_the_check_finds_what_it_is_for(source):
    assert forbidden(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x', weights_only=True)", "import numpy as np\nnp.load('x')",
        "import yaml\nyaml.load(f, Loader=yaml.CSafeLoader)", "model.eval()", "'''0.0.0.0'''",
        "import subprocess\nsubprocess.run(['x'], shell=False)", "import re\nre.compile('x')",
    ],
)  # fmt: skip
def test_the_check_leaves_the_rest_alone(source):
    assert forbidden(ast.parse(source)) == []


@pytest.mark.parametrize(
    "source",
    ["from urllib.request import urlopen", "import urllib.request as r\nr.urlopen('x')",
     "import http.client\nhttp.client.HTTPSConnection('x')"],
)  # fmt: skip
def test_the_check_finds_an_opened_address(source):
    assert opens_addresses(ast.parse(source))


def test_servers_are_seen_from_this_computer_alone_unless_told_otherwise():
    assert inspect.signature(PageSink).parameters["host"].default == "127.0.0.1"
    arguments = stream_parser(None).parse_args(["run", "--page", "1", "--replay", "x"])
    assert arguments.host is None  # that of PageSink


def test_the_live_page_makes_no_markup_of_what_it_receives():
    page = ROOT / "bci_decode" / "realtime" / "interfaces" / "page.html"
    text = page.read_text(encoding="utf-8")
    assert not [word for word in MARKUP if word in text] and "textContent" in text
