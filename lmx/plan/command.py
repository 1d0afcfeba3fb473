"""Plans on a command line: its arguments, virtual devices, and what a run that is out of memory says."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import jax

from lmx.devices import device_of_kind, find_device


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, int | None, list[str]]:
    """Takes `--plan DEVICE` and `--devices N` out of a command line: (device, number of devices, what is left).

    Raises:
        ValueError: one of them has no value, the number is none, or there are devices without a plan.
    """
    found: dict[str, str] = {}
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if name not in ("--plan", "--devices"):
            rest.append(argument)
            continue
        found[name] = value if equals else next(waiting, "")
        if not found[name] or found[name].startswith("--"):
            raise ValueError(f"{name} must have a value, got none. Like: --plan h100 --devices 8.")
    device, devices = found.get("--plan"), found.get("--devices")
    if devices is None:
        return device, None, rest
    if device is None:
        raise ValueError(f"--devices must come with --plan, got --devices {devices} alone. A run takes all it sees.")
    if not devices.isdigit() or int(devices) < 1:
        raise ValueError(f"--devices must be a positive number, got {devices}.")
    return device, int(devices), rest


def plan_of_this_command() -> str:
    """Returns what this command prints with `--plan`, made by a process of its own that needs no accelerator.

    The script must take `--plan` and `--devices` (see `split_arguments`).
    """
    if "--plan" in sys.argv:  # a script that does not would start itself again and again
        return "There is no plan: the script ran out of memory with --plan."
    kind, number = jax.devices()[0].device_kind, jax.device_count()
    device = find_device("cpu") if kind == "cpu" else device_of_kind(kind)
    if device is None:
        return f"There is no plan for {kind}: it is not in the table of devices."
    command = [sys.executable, *sys.argv, "--plan", device.name, "--devices", str(number)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    return done.stdout if done.returncode == 0 else f"There is no plan: {done.stderr.strip()[-2000:]}"


def use_virtual_devices(number: int) -> None:
    """Makes jax see `number` CPU devices and no others; must come before jax is first asked for its devices.

    Raises:
        RuntimeError: jax has begun with other devices.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", number)


@contextlib.contextmanager
def explain_out_of_memory(table: Callable[[], str]) -> Iterator[None]:
    """Ends a run whose devices are out of memory with a table of what it takes and one clear line, exit status 1.

    Args:
        table: makes the table; it may not need a device's memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        first = str(error).strip().splitlines()[0]
        if jax.process_index() == 0:
            print(table(), flush=True)
        raise SystemExit(f"error: a device is out of memory ({first}). The table above says what takes it.") from error
