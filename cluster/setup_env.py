"""Makes .venv once from the exact pins in requirements-cpu.txt; needs nothing but Python 3.11.

    python3.11 cluster/setup_env.py            make .venv, or return at once when it is complete
    python3.11 cluster/setup_env.py --check    exit status 0 when it is complete; writes nothing

A stamp in .venv says what it was made from. It is empty until the last step has been verified, so that an
interrupted installation is recognised and made again.
"""

import fcntl
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from environment import (
    PINS,
    PROJECT,
    ROOT,
    STAMP,
    VENV,
    SetupError,
    difference,
    digest,
    fault,
    installed,
    project_is_current,
    read_pins,
    write_stamp,
)

LOG = VENV / "setup.log"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_BARE = {"pip", "setuptools", "wheel"}  # what a virtual environment may hold when it is new


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit status (0 complete, 1 incomplete under --check, 2 cannot be made)."""
    if arguments == ["--check"]:
        return int(fault() is not None or not project_is_current())
    try:
        with exclusively():
            ensure()
    except (SetupError, OSError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("setup: interrupted; the next call makes .venv again", file=sys.stderr)
        return 130
    return 0


def ensure() -> None:
    """Make .venv, or only register the project in it again, or do nothing."""
    started = time.monotonic()
    reason = fault()
    if reason is None and project_is_current():
        return
    if reason is not None:
        check_machine()
        refuse_foreign()
        say(f"making .venv ({reason}); this takes some minutes, once; details in {LOG}")
        make()
    install_project()
    verify()
    write_stamp({"root": str(ROOT), "pins": digest(PINS), "project": digest(PROJECT)})
    say(f"environment complete after {time.monotonic() - started:.0f} s")


def check_machine() -> None:
    """Raise SetupError where the pinned builds cannot be installed or used."""
    if sys.version_info[:2] != (3, 11):
        raise SetupError(f"Python 3.11 is needed, this is {platform.python_version()}; name one with PYTHON=")
    machine = (platform.system(), platform.machine())
    if machine != ("Linux", "x86_64"):
        raise SetupError(f"the pinned CPU builds are for Linux on x86-64, this is {' '.join(machine)}")
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise SetupError(
            f"{sys.executable} cannot make virtual environments; add its venv and ensurepip modules "
            "(Debian, Ubuntu: apt-get install python3.11-venv) or name another with PYTHON="
        )
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise SetupError(
            f"{sys.executable} has no header files, which DeepSpeed's operator is built with; add them "
            "(Debian, Ubuntu: apt-get install python3.11-dev) or name another with PYTHON="
        )


def refuse_foreign() -> None:
    """Raise SetupError when .venv is somebody's own environment, which we would delete."""
    if not STAMP.exists() and set(installed()) - _BARE:
        raise SetupError(f"{VENV} was not made by this command; move it away or delete it, then run the command again")


def make() -> None:
    """A new virtual environment with the pins in it; whatever .venv held before is gone."""
    VENV.mkdir(exist_ok=True)
    write_stamp({})
    for entry in VENV.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != STAMP:
            entry.unlink()
    pins = read_pins()
    if not attempt(sys.executable, "-m", "venv", str(VENV)):
        raise failure("making a virtual environment")
    if "setuptools" in pins:  # builds deepspeed and the project below
        pip("install", "--no-deps", f"setuptools=={pins['setuptools']}")
    install_torch(pins["torch"])
    say(f"torch {pins['torch']} is in place; {len(pins)} pins altogether")
    others = [f"{name}=={version}" for name, version in pins.items() if name != "deepspeed"]
    pip("install", "--no-deps", "--no-compile", "--no-build-isolation", *others)
    if "deepspeed" in pins:
        install_deepspeed(pins["deepspeed"])
    compile_all()


def install_torch(version: str) -> None:
    """From what pip's own configuration finds, else from PyTorch's index of CPU builds."""
    requirement = f"torch=={version}"
    sources = ([], ["--extra-index-url", CPU_INDEX, "--timeout", "20", "--retries", "1"])
    for source in sources:
        before = LOG.stat().st_size
        if attempt_pip("install", "--no-deps", "--no-compile", *source, requirement):
            return
        if "No matching distribution found" not in log_since(before):
            raise failure(f"pip install {requirement}")
    raise SetupError(
        f"{requirement} was found neither through pip's own configuration nor at {CPU_INDEX}; make one of them "
        "serve it, for instance a directory with its wheel: PIP_FIND_LINKS=/path/to/wheels"
    )


def install_deepspeed(version: str) -> None:
    """With the operator through which ranks on CPUs talk; DeepSpeed would compile it in the midst of the first run.

    A wheel in pip's cache may be without it, hence --no-cache-dir.
    """
    say("compiling DeepSpeed's operator for CPUs")
    pip(
        "install", "--no-deps", "--no-compile", "--no-build-isolation", "--no-cache-dir", f"deepspeed=={version}",
        DS_ACCELERATOR="cpu", DS_BUILD_SHM_COMM="1",
    )


def compile_all() -> None:
    """Bytecode for every package, on all cores (pip uses one); without it an engine starts in twice the time."""
    # The exit status says nothing: some packages ship templates that are not Python.
    attempt(str(VENV / "bin" / "python"), "-m", "compileall", "-qq", "-j", "0", str(VENV / "lib"))


def install_project() -> None:
    """Register this checkout in .venv (editable), with the `rlhf` command."""
    pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))


def verify() -> None:
    """Raise SetupError unless .venv holds exactly the pins and its torch is the CPU build."""
    found = difference(read_pins(), installed())
    if found:
        raise SetupError(f"after the installation .venv is still wrong ({found}); delete {VENV} and try again")
    command = [str(VENV / "bin" / "python"), "-c", "import torch; print(torch.__version__, torch.version.cuda)"]
    answer = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if answer.stdout.split() != [read_pins()["torch"], "None"]:
        last = (answer.stdout + answer.stderr).strip().splitlines()[-1:]
        raise SetupError(f"torch in .venv is not the pinned CPU build ({last}); delete {VENV} and try again")


def pip(*arguments: str, **variables: str) -> None:
    """Run the pip of .venv under the user's own pip configuration; raises SetupError when it fails."""
    if not attempt_pip(*arguments, **variables):
        raise failure(f"pip {arguments[0]}")


def attempt_pip(*arguments: str, **variables: str) -> bool:
    options = ("--disable-pip-version-check", "--no-input")
    return attempt(str(VENV / "bin" / "python"), "-m", "pip", *options, *arguments, **variables)


def attempt(*command: str, **variables: str) -> bool:
    """Run a command, with these environment variables as well and its output in the log; whether it succeeded."""
    with open(LOG, "ab") as log:
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        return subprocess.run(command, env={**os.environ, **variables}, **streams).returncode == 0


def failure(what: str) -> SetupError:
    """The error for a command that failed, after showing the end of what it wrote."""
    print("\n".join(log_since(0).splitlines()[-15:]), file=sys.stderr)
    return SetupError(f"{what} failed; the end of its output stands above, all of it in {LOG}")


def log_since(offset: int) -> str:
    return LOG.read_bytes()[offset:].decode(errors="replace")


@contextmanager
def exclusively() -> Iterator[None]:
    """One installation at a time: another process waits here until the first has finished."""
    with open(PINS) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is making .venv; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
