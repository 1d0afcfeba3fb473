"""Rows of a comparison: each is a process of its own that waits while another is timed.

A script prepares a row in the Python that has what it needs, and asks it over pipes, a line of JSON each way. Used in
two Pythons, so only the standard library is imported.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Memory that is freed stays with the process, in huge pages: each call needs the same again. One arena, because glibc
# takes large blocks of any other from the system each time.
TUNABLES = (
    "glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.hugetlb=1:"
    "glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456"
)


class Row:
    """A row and its process.

    Args:
        script: is run with `--serve TASK`, and there calls `serve`.
        task: what the row is, as JSON has it.
        environment: beside that of this process; the allocator's settings are taken from here alone.

    Raises:
        ValueError: the process could not get ready.
    """

    def __init__(self, name: str, script: str, task: Any, *, python: str, environment: dict[str, str]):
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed by `end`
        inherited = {key: value for key, value in os.environ.items() if key not in ("GLIBC_TUNABLES", "LD_PRELOAD")}
        self._process = subprocess.Popen(
            [python, script, "--serve", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=inherited | {"JAX_PLATFORMS": "cpu"} | environment,
        )
        self.facts = self._answer()

    def ask(self, question: Any) -> Any:
        """Sends a question to the process and returns its answer.

        Raises:
            ValueError: the process failed; the message holds its error.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"its process ended: {self._last_words()}"}
        if isinstance(answer, dict) and "error" in answer:
            raise ValueError(f"{self.name} must run, got {answer['error']}")
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._log.seek(0)
        return (self._log.read().strip().splitlines() or ["no message"])[-1]

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


def serve(prepare: Callable[[], tuple[Any, Callable[[Any], Any]]]) -> None:
    """Runs in a row's process: prepares `(facts, answer)`, tells the facts, then answers each line of standard input.

    What the libraries print goes to standard error; an exception ends the process with a line that says so.
    """
    answers, sys.stdout = sys.stdout, sys.stderr

    def tell(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        facts, answer = prepare()
        tell(facts)
        for line in sys.stdin:
            tell(answer(json.loads(line)))
    except Exception as error:
        tell({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        raise SystemExit(1) from error


def cpu_name() -> str:
    """Returns the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def open_mkl(directory: Path) -> Path | None:
    """Builds the library that opens MKL's AVX-512 path on AMD; None elsewhere, or without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or "AMD" not in cpu_name():
        return None
    library = directory / "open_mkl.so"
    source = "int mkl_serv_intel_cpu_true(void) { return 1; }"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    done = subprocess.run(command, input=source, text=True, check=False)
    return library if done.returncode == 0 else None


def tuned_environments(directory: Path) -> tuple[dict[str, str], dict[str, str], str]:
    """Returns the tuned environment of lmx, that of a peer that uses MKL, and both in words."""
    own, library = {"GLIBC_TUNABLES": TUNABLES}, open_mkl(directory)
    peer = own | ({"LD_PRELOAD": str(library)} if library else {})
    words = f"GLIBC_TUNABLES={TUNABLES}" + ("; MKL's AVX-512 path opened for PyTorch" if library else "")
    return own, peer, words


def check_peer(python: str, *modules: str) -> None:
    """Checks that the peer's Python is there and has its packages.

    Raises:
        FileNotFoundError: there is no such Python.
        ImportError: it lacks one of the packages.
    """
    named = " and ".join(modules)
    if shutil.which(python) is None:
        raise FileNotFoundError(
            f"--peer-python must be a Python that has {named}, got {python}: there is no such program."
        )
    if subprocess.run([python, "-c", f"import {', '.join(modules)}"], capture_output=True, check=False).returncode:
        raise ImportError(f"--peer-python must have {named}, got {python}. Install them there, or name another Python.")
