"""Make .venv and install Evertrain into it, once; runs on any Python, so that an old one gets an answer too.

usage: python3 scripts/setup.py [GROUP ...]     GROUP: tests, typing, examples
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
LOG = os.path.join(ROOT, ".make", "setup.log")
NEEDED = (3, 11)


def stop(sentence):
    print(sentence)
    sys.exit(1)


def suitable():
    """Return a Python that is new enough: this one, or another on the PATH."""
    if sys.platform == "win32":
        stop("Evertrain runs on Linux and macOS; on Windows use WSL2: wsl --install")
    if sys.version_info >= NEEDED:
        return sys.executable
    for name in ("python3.13", "python3.12", "python3.11"):
        path = shutil.which(name) if hasattr(shutil, "which") else None
        if path and subprocess.call([path, "-c", "import venv"], stderr=subprocess.DEVNULL) == 0:
            return path
    stop(
        "Evertrain needs Python 3.11 or newer and this is %d.%d; on Debian or Ubuntu: sudo apt install python3.11 python3.11-venv"
        % sys.version_info[:2]
    )


def requirements(groups):
    """Return what the groups ask for, read by the new environment's Python."""
    code = (
        "import json, sys, tomllib; data = tomllib.load(open('pyproject.toml', 'rb'));"
        "print('\\n'.join(r for g in sys.argv[1:] for r in data['dependency-groups'][g]))"
    )
    found = subprocess.check_output([python(), "-c", code] + groups, cwd=ROOT)
    return found.decode().split("\n")[:-1] if groups else []


def python():
    return os.path.join(VENV, "bin", "python")


def mark(groups):
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    digest.update(" ".join(groups).encode())
    return os.path.join(VENV, "ready-" + digest.hexdigest()[:16])


def supersets(groups):
    """Return every set of groups that holds these: what was set up for more serves for less."""
    known = ([], ["tests"], ["tests", "typing"], ["examples", "tests"], ["examples", "tests", "typing"])
    return [more for more in known if set(groups) <= set(more)]


def run(command, what, out, environment=None):
    """Run a command with its output in the log, and show one line that moves."""
    started = time.time()
    process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=environment)
    shown = sys.stdout.isatty()
    while process.poll() is None:
        if shown:
            sys.stdout.write("\r  %s ... %d s " % (what, time.time() - started))
            sys.stdout.flush()
        time.sleep(0.2)
    if shown:
        sys.stdout.write("\r" + " " * 60 + "\r")
    return process.returncode


def main():
    groups = sorted(set(sys.argv[1:]))
    if any(os.path.exists(mark(more)) for more in supersets(groups)):
        return
    base = suitable()
    print(
        "Setting up .venv, once: about %d packages, 0.8 GB, 20 s to 3 min. Log: .make/setup.log"
        % (95 if groups else 40)
    )
    if not os.path.isdir(os.path.dirname(LOG)):
        os.makedirs(os.path.dirname(LOG))
    started = time.time()
    with open(LOG, "ab") as out:
        if not os.path.exists(python()) and run([base, "-m", "venv", VENV], "creating .venv", out):
            shutil.rmtree(VENV, ignore_errors=True)
            stop("Python's venv module is missing; on Debian or Ubuntu: sudo apt install python3-venv")
        install(groups, out)
    open(mark(groups), "w").close()
    print("Ready after %d s." % (time.time() - started))


def install(groups, out):
    """Install with uv, which takes seconds, or with pip where uv can't be had."""
    wanted = ["-c", "constraints.txt", "-e", ".[notify]" if groups else "."] + requirements(groups)
    uv = os.path.join(VENV, "bin", "uv")
    if not os.path.exists(uv):
        run([python(), "-m", "pip", "install", "-q", "uv"], "fetching the installer", out)
    if os.path.exists(uv):
        environment = dict(os.environ, VIRTUAL_ENV=VENV)
        if "PIP_FIND_LINKS" in environment:
            environment.setdefault("UV_FIND_LINKS", environment["PIP_FIND_LINKS"])
        if run([uv, "pip", "install", "--compile-bytecode"] + wanted, "installing", out, environment) == 0:
            return
    if run([python(), "-m", "pip", "install", "-q"] + wanted, "installing", out):
        with open(LOG) as file:
            last = [line for line in file.read().splitlines() if line.strip()][-3:]
        stop("Installing failed; the package index may be out of reach. Log: .make/setup.log\n  " + "\n  ".join(last))


if __name__ == "__main__":
    main()
