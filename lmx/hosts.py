"""Several processes that train one model: how they find each other, how they agree, and which of them writes.

A *host* is one process of JAX's distributed runtime, counted from 0; host 0 writes all files and speaks. Launchers are
found as JAX finds them (`jax.distributed.initialize`); which rows of a batch a host makes is `lmx.sharding`'s task. On
a lone machine everything here does nothing.
"""

import contextlib
import hashlib
import importlib.util
import itertools
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

# How long a process waits for the others to start: pods whose machines are new, or pull an image, come minutes apart.
JOIN_SECONDS = 600
# How long hosts wait for each other while text is read and encoded; a host that died is missed by its heartbeats.
MEET_SECONDS = 7 * 24 * 3600

_meetings = itertools.count()  # all hosts count alike
_places = itertools.count()  # of saves, likewise


@dataclass(frozen=True, kw_only=True)
class HostsConfig:
    """How processes find each other. Slurm, Open MPI 4, Kubernetes jobs and their TPUs need no settings.

    Attributes:
        coordinator: HOST:PORT where process 0 listens, reachable from all.
        num_processes: number of processes of the run; 1 trains alone whatever the launcher says.
        process_id: number of this process, from 0. Where a launcher is found, it fills in what is not given.
        heartbeat_seconds: a process without a sign of life for this long counts as dead, and the others stop.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    heartbeat_seconds: int = 20

    def __post_init__(self):
        if self.coordinator is not None and not re.fullmatch(r"\S+:\d+", self.coordinator):
            raise ValueError(f"coordinator must be HOST:PORT, got coordinator={self.coordinator!r}.")
        if self.heartbeat_seconds < 1:
            raise ValueError(f"heartbeat_seconds must be at least 1, got heartbeat_seconds={self.heartbeat_seconds}.")
        number, process = self.num_processes, self.process_id
        if number is not None and number < 1:
            raise ValueError(f"num_processes must be at least 1, got num_processes={number}.")
        if process is not None and not 0 <= process < (number or process + 1):
            raise ValueError(
                f"process_id must be from 0 to num_processes - 1, got process_id={process} and num_processes={number}."
            )


class Launcher(NamedTuple):
    """What started this process; `num_processes` is None where only a request to Kubernetes could tell."""

    name: str
    num_processes: int | None
    process_id: int


def find_launcher(environment: Mapping[str, str]) -> Launcher | None:
    """Returns the launcher that an environment tells of, in the order in which JAX looks for them."""
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return Launcher("Open MPI", int(environment["OMPI_COMM_WORLD_SIZE"]), int(environment["OMPI_COMM_WORLD_RANK"]))
    # A batch script that calls Python without srun has no step, and is alone whatever the job's size.
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if all(name in environment for name in slurm):
        return Launcher("Slurm", int(environment["SLURM_NTASKS"]), int(environment["SLURM_PROCID"]))
    # The hosts of a TPU, where they are pods too.
    workers = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if workers is not None and "TPU_WORKER_ID" in environment:
        number = len(workers.split(","))
        slices = int(environment.get("MEGASCALE_NUM_SLICES") or 1)
        before = number * int(environment.get("MEGASCALE_SLICE_ID") or 0)
        return Launcher("TPU", slices * number, before + int(environment["TPU_WORKER_ID"]))
    # Every pod has the first; only those of an indexed job have the second.
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys():
        return Launcher("Kubernetes", None, int(environment["JOB_COMPLETION_INDEX"]))
    return None


def start(config: HostsConfig) -> None:
    """Joins the other processes of the run, if there are any; to be called before jax touches a device.

    Raises:
        ValueError: what was given and found does not suffice to join, or hosts have different numbers of devices.
    """
    launcher = find_launcher(os.environ)
    number, process = config.num_processes, config.process_id
    if launcher is not None:
        number = launcher.num_processes if number is None else number
        process = launcher.process_id if process is None else process
    alone = launcher is None and (config.coordinator, number, process) == (None, None, None)
    if number == 1 or alone:
        if alone and (count := jax.process_count()) > 1:  # a TPU's hosts see each other's chips before they have met
            raise ValueError(
                f"coordinator, num_processes and process_id must be given on a TPU of {count} hosts where nothing "
                "names them, got none. Give the address of process 0, as HOST:PORT."
            )
        return
    if config.coordinator is not None and (number is None or process is None):
        raise ValueError(
            "num_processes and process_id must be given with a coordinator where no launcher tells them, "
            f"got num_processes={number} and process_id={process}."
        )
    if config.coordinator is None:
        if launcher is None:
            raise ValueError(
                f"coordinator must be given with num_processes and process_id, got num_processes={number} and "
                f"process_id={process}. Give the address of process 0, as HOST:PORT."
            )
        if launcher.name == "Open MPI" and "OMPI_MCA_orte_hnp_uri" not in os.environ:
            raise ValueError(
                "coordinator must be given under this version of Open MPI, which does not say where process 0 is, got "
                "coordinator=None. Give the address of process 0, as HOST:PORT; the rest is found."
            )
        if launcher.name == "Kubernetes" and importlib.util.find_spec("kubernetes") is None:
            raise ValueError(
                "the package kubernetes must be installed to find the other pods of an indexed job "
                "(jax[k8s]), got none. Or give --hosts.coordinator and --hosts.num-processes; --hosts.num-processes 1 "
                "trains alone."
            )
    # Of a launcher that knows places on a machine, JAX takes one device a process.
    by_hand = config.coordinator is not None and (launcher is None or launcher.name in ("Kubernetes", "TPU"))
    # The training loop takes the signals itself; JAX's own handler would swallow those that come before.
    jax.config.update("jax_enable_preemption_service", False)
    # Returns when all are there, so that none is late for what follows.
    jax.distributed.initialize(
        config.coordinator,
        num_processes=config.num_processes if config.coordinator is None else number,
        process_id=config.process_id if config.coordinator is None else process,
        cluster_detection_method="deactivate" if by_hand else None,
        initialization_timeout=JOIN_SECONDS,
        heartbeat_timeout_seconds=config.heartbeat_seconds,
        shutdown_timeout_seconds=config.heartbeat_seconds,
    )
    counts = [sum(device.process_index == host for device in jax.devices()) for host in range(jax.process_count())]
    if len(set(counts)) > 1:
        raise ValueError(f"all hosts must have the same number of devices, got {counts}, host 0 first.")
    # Gloo, which carries sums between CPUs, gives the others 30 s to come to the first one, and all the time for those
    # that follow. So the first is taken here, before text is read, for which hosts may need more or less time.
    largest(0)


def meet() -> None:
    """Waits until all hosts are here, however long they take; does nothing on one. No device takes part.

    Before the devices of several hosts work together for the first time: some of their libraries wait for seconds.
    """
    client = distributed.global_state.client
    if client is None or jax.process_count() == 1:
        return
    name, failed = f"lmx-{next(_meetings)}", []

    def wait() -> None:
        try:
            client.wait_at_barrier(name, MEET_SECONDS * 1000)
        except Exception as error:  # the runtime's, of a type that it does not name
            failed.append(error)

    # In a thread, so that this one hears signals while it waits.
    thread = threading.Thread(target=wait, name="lmx-meeting", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if failed:
        raise RuntimeError(f"the hosts must meet, got {' '.join(str(failed[0]).split())[:500]}.")


def meet_in_save(*, key: str, timeout_ms: int) -> None:
    """Waits until all hosts stand at one place of a save; Orbax calls it with the name of each place.

    A host whose part has failed goes on to the end of the save. By the names alone it would wait there, and the others
    for its part, until the time is over. So the hosts meet by number, and those who learn that they stand at different
    places give the save up.

    Raises:
        OSError: another host could not write its part.
    """
    client = distributed.global_state.client
    if client is None or jax.process_count() == 1:
        return
    while True:
        number = next(_places)
        name = f"lmx-save-{number}/"
        client.key_value_set(f"{name}{jax.process_index()}", key)
        client.wait_at_barrier(name, timeout_ms)
        told = {place for _, place in client.key_value_dir_get(name)}
        if number and jax.process_index() == 0:
            client.key_value_delete(f"lmx-save-{number - 1}/")  # all have read it, or they would not be here
        if len(told) == 1 or not any("async_" in place for place in told):
            return
        if "async_" in key:
            raise OSError("another host could not write its part")
        # This host has failed, and others stood at the part: they give it up, and come to this place next.


def is_writer() -> bool:
    """Returns whether this process writes the files of the run and speaks: host 0 does."""
    return jax.process_index() == 0


def label() -> str:
    """Returns what stands before an error of this process: "host 3: ", or nothing on a lone machine."""
    return f"host {jax.process_index()}: " if jax.distributed.is_initialized() else ""


@contextlib.contextmanager
def agreement() -> Iterator[dict[str, Any]]:
    """Runs a block on every host; all go on with the same facts, or all stop with the same line.

    The block puts facts that JSON can hold into the dictionary it is given. All hosts meet at its end, and nothing
    inside it may make them meet.

    Raises:
        ValueError: facts differ, and the message names the first, the hosts and their values; or another host failed.
    """
    facts: dict[str, Any] = {}
    error = None
    try:
        yield facts
    except Exception as raised:
        if jax.process_count() == 1:
            raise
        error = raised
    if jax.process_count() == 1:
        return
    meet()
    told = _exchange({"facts": facts, "error": error and (str(error) or type(error).__name__)})
    if error is not None:
        raise error
    for host, item in enumerate(told):
        if item["error"]:
            raise ValueError(f"host {host} stopped: {item['error']}")
    if (text := disagreement([item["facts"] for item in told])) is not None:
        raise ValueError(text)


def disagreement(facts: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns what the first difference between the hosts' facts is, in one line, or None."""
    flat = [dict(_flatten(one)) for one in facts]
    names = sorted({name for one in flat for name in one})
    different = [name for name in names if any(one.get(name) != flat[0].get(name) for one in flat)]
    if not different:
        return None
    holders: dict[str, list[int]] = {}
    for host, one in enumerate(flat):
        holders.setdefault(repr(one.get(different[0]))[:200], []).append(host)
    got = " and ".join(
        f"{value} on host{'s' * (len(hosts) > 1)} {', '.join(map(str, hosts))}" for value, hosts in holders.items()
    )
    more = f" (and {len(different) - 1} more: {', '.join(different[1:4])})" if len(different) > 1 else ""
    return f"all hosts must have the same {different[0]}, got {got}{more}."


def fingerprint(*parts: np.ndarray | Iterable[str]) -> str:
    """Returns a short hash of arrays and texts, to compare data by."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).view(np.uint8).data)
        else:
            for text in part:
                digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def largest(value: int) -> int:
    """Returns the largest of the numbers that the hosts give; all hosts must ask."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.process_allgather(np.int32(value)).max())


def wait(name: str) -> None:
    """Waits until all hosts are here and their devices have done what they were told; does nothing on one."""
    meet()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _exchange(item: Any) -> list[Any]:
    """Returns what each host gives, as JSON, in the order of the hosts."""
    text = np.frombuffer(json.dumps(item, sort_keys=True, default=str).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(text.size))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: text.size] = text
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, part in value.items():
        yield from _flatten(part, f"{name}.{key}".lstrip("."))
