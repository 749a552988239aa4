"""Linux, macOS and Windows: no call of one system outside a guard, and no text in its encoding."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from re import findall

import pytest
from recordings import ROOT
from sources import PACKAGE, docstrings, dotted, imported, keyword, tree_of

MODULES = {
    "fcntl", "resource", "pwd", "grp", "spwd", "termios", "tty", "pty", "posix", "syslog", "nis",
    "crypt", "readline", "curses", "msvcrt", "winreg", "winsound", "_winapi",
}  # fmt: skip
NAMES = {
    *(f"os.{name}" for name in findall(r"\w+", """
        fork forkpty getuid geteuid getgid getegid setuid seteuid setgid setegid getgroups getpgid
        getpgrp setpgid setpgrp setsid getsid killpg kill mkfifo mknod sync statvfs fstatvfs chown
        fchown lchown fchmod lchmod fchdir chroot nice getloadavg getpriority setpriority sysconf
        uname ttyname openpty ctermid pipe2 pread pwrite readv writev sendfile wait wait3 wait4
        waitid WIFEXITED WIFSIGNALED WTERMSIG WEXITSTATUS WNOHANG posix_spawn posix_fadvise
        posix_fallocate register_at_fork sched_getaffinity sched_setaffinity sched_yield
        memfd_create pidfd_open getxattr setxattr listxattr set_blocking fdatasync
        O_NOFOLLOW O_DIRECTORY O_NONBLOCK O_CLOEXEC O_SYNC O_DIRECT O_TMPFILE EX_OK
        startfile O_BINARY add_dll_directory
    """)),
    *(f"signal.{name}" for name in findall(r"\w+", """
        SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGQUIT SIGSTOP SIGCONT SIGPIPE SIGTSTP
        SIGXCPU SIGXFSZ SIGWINCH pause alarm setitimer siginterrupt pthread_kill pthread_sigmask
        sigwait sigwaitinfo sigpending pidfd_send_signal CTRL_C_EVENT CTRL_BREAK_EVENT
    """)),
    "select.poll", "select.epoll", "select.kqueue", "time.tzset", "socket.AF_UNIX",
    "socket.SO_REUSEPORT", "asyncio.get_event_loop.add_signal_handler", "errno.EDQUOT",
}  # fmt: skip
METHODS = {"add_signal_handler", "remove_signal_handler", "preexec_fn", "start_new_session"}
PLACES = ("/dev/", "/proc", "/tmp", "/sys/", "/etc/", "/var/", "C:\\")
TESTS = ("os.name", "sys.platform", "hasattr", "getattr", "platform.system", "TYPE_CHECKING")
ERRORS = ("ImportError", "ModuleNotFoundError", "AttributeError", "NotImplementedError")
LEAVES = (ast.Return, ast.Raise, ast.Continue)


def guards(node: ast.AST) -> bool:
    """Whether what is inside a statement or expression runs on some systems alone."""
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        return any(word in ast.unparse(node.test) for word in TESTS)
    if isinstance(node, ast.BoolOp):
        return any(word in ast.unparse(node.values[0]) for word in TESTS)
    if isinstance(node, ast.Try):
        caught = [ast.unparse(one.type) for one in node.handlers if one.type is not None]
        return any(name in text for text in caught for name in ERRORS)
    if isinstance(node, ast.With):
        text = " ".join(ast.unparse(item.context_expr) for item in node.items)
        return "suppress(" in text and any(name in text for name in ERRORS)
    return False


def unguarded(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run on every system."""
    yield node
    for _, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            if guards(child):
                # `if os.name != "posix": return` guards what follows
                if isinstance(child, ast.If) and isinstance(child.body[-1], LEAVES):
                    break
                continue
            yield from unguarded(child)


def foreign(tree: ast.Module) -> list[str]:
    """What only some systems have, outside a guard."""
    names, texts, found = imported(tree), docstrings(tree), []
    for node in unguarded(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            own = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in own if node.module in MODULES or name in NAMES]
        elif isinstance(node, ast.Attribute):
            full = dotted(node, names)
            if full in NAMES or node.attr in METHODS:
                found.append(full)
        elif isinstance(node, ast.keyword) and node.arg in METHODS:
            found.append(str(node.arg))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in texts:
            found += [node.value] * node.value.startswith(PLACES)
    return found


def system_encoding(tree: ast.Module) -> list[str]:
    """Calls that read or write text in the encoding of the system, cp1252 on Windows."""
    names, found = imported(tree), []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or keyword(node, "encoding") is not None:
            continue
        name = dotted(node.func, names)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        modes = [*node.args, keyword(node, "mode")]
        words = [one.value for one in modes if isinstance(one, ast.Constant)]
        binary = any(isinstance(word, str) and "b" in word for word in words)
        if (
            (method == "read_text" and not node.args)
            or (method == "write_text" and len(node.args) < 2)
            or (_opens(name, method) and not binary)
        ):
            found.append(ast.unparse(node))
    return found


def _opens(name: str, method: str) -> bool:
    """Whether a call opens a file, perhaps as text."""
    if name in {"open", "io.open", "io.TextIOWrapper", "os.fdopen", "codecs.open"}:
        return True
    return method == "open" and name.split(".")[0] not in {"h5py", "os", "zipfile", "opener"}


def test_it_runs_on_every_system():
    found = {str(path.relative_to(ROOT)): foreign(tree_of(path)) for path in PACKAGE}
    assert {path: names for path, names in found.items() if names} == {}


def test_text_has_an_encoding():
    found = {str(path.relative_to(ROOT)): system_encoding(tree_of(path)) for path in PACKAGE}
    assert {path: texts for path, texts in found.items() if texts} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import fcntl", "from resource import getrusage", "import os\nos.fork()", "x = '/tmp/y'",
        "from os import O_NOFOLLOW", "import signal\nsignal.signal(signal.SIGHUP, f)",
        "loop.add_signal_handler(2, f)", "from signal import SIGKILL as S", "f(preexec_fn=g)",
        "import os\nif x:\n    os.getuid()", "def f():\n    import pwd",
        "import os\ntry:\n    os.sync()\nexcept OSError:\n    pass", "open('/dev/null')",
        "import os\nos.name == 'nt' and 1\nos.getuid()", "import select\nselect.poll()",
    ],
)  # fmt: skip
def test_the_check_finds_what_one_system_has(source):
    assert foreign(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "import os\nif os.name == 'posix':\n    os.fork()", "'''/tmp'''",
        "import os\nif hasattr(os, 'sync'):\n    os.sync()", "getattr(os, 'O_NOFOLLOW', 0)",
        "try:\n    import fcntl\nexcept ImportError:\n    fcntl = None",
        "import os\ndef f():\n    if os.name != 'posix':\n        return\n    os.fork()",
        "import os\nwith suppress(AttributeError):\n    os.sync()", "os.path.join('a', 'b')",
        "import sys, os\nx = os.getuid() if sys.platform == 'linux' else 0",
        "import os\nx = os.name == 'posix' and os.getuid()", "import signal\nsignal.SIGTERM",
    ],
)  # fmt: skip
def test_the_check_leaves_guarded_calls_alone(source):
    assert foreign(ast.parse(source)) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("p.read_text()", 1), ("p.write_text('x')", 1), ("open('x')", 1), ("p.open('a')", 1),
        ("open('x', newline='')", 1), ("open('x', 'rb')", 0), ("p.open(mode='r+b')", 0),
        ("p.read_text(encoding='utf-8')", 0), ("p.open('w', encoding='utf-8')", 0),
        ("import os\nos.open('x', 0)", 0), ("p.read_text('utf-8')", 0), ("p.read_bytes()", 0),
    ],
)  # fmt: skip
def test_the_check_finds_text_without_an_encoding(source, found):
    assert len(system_encoding(ast.parse(source))) == found
