"""Hosts find each other, agree and share the work; the slow tests start 2 and 4 real processes over loopback."""

import contextlib
import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from lmx.hosts import (
    HostsConfig,
    Launcher,
    _exchange,
    agreement,
    disagreement,
    find_launcher,
    fingerprint,
    is_writer,
    label,
    largest,
    meet,
    meet_in_save,
    start,
)
from lmx.sharding.mesh import MeshConfig, make_mesh
from lmx.sharding.placement import batch_shards, fetch, in_pieces, named_sharding, place_rows, replicated, rows_on

ROOT = Path(__file__).parents[1]

SLURM = {
    "SLURM_JOB_ID": "81",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
OPEN_MPI_4 = {**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911"}
TPU = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "3"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


# Finding each other.


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (SLURM, Launcher("Slurm", 2, 1)),
        ({name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}, None),  # without srun
        (OPEN_MPI_4, Launcher("Open MPI", 4, 3)),
        (OPEN_MPI, Launcher("Open MPI", 4, 3)),
        (SLURM | OPEN_MPI, Launcher("Open MPI", 4, 3)),  # mpirun inside a Slurm job
        (TPU, Launcher("TPU", 4, 3)),
        (POD | {"JOB_COMPLETION_INDEX": "2"} | TPU, Launcher("TPU", 4, 3)),
        (TPU | {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}, Launcher("TPU", 8, 7)),
        ({**TPU, "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, Launcher("TPU", 1, 0)),
        (TPU | {"TPU_PROCESS_ADDRESSES": "a:1,b:1", "TPU_WORKER_ID": "1"}, Launcher("TPU", 2, 1)),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, None),
        (POD, None),
        (POD | {"JOB_COMPLETION_INDEX": "2"}, Launcher("Kubernetes", None, 2)),
    ],
)
def test_launchers_are_found_by_their_environment(environment, expected):
    assert find_launcher(environment) == expected


@pytest.fixture
def joined(monkeypatch) -> dict:
    """What jax.distributed.initialize was called with, if it was; the environment names no launcher."""
    for name in {*SLURM, *OPEN_MPI_4, *TPU, *POD, "JOB_COMPLETION_INDEX"}:
        monkeypatch.delenv(name, raising=False)
    calls: dict = {}

    def initialize(coordinator_address=None, **options):
        calls.update(options, coordinator=coordinator_address)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    before = jax.config.jax_enable_preemption_service
    yield calls
    jax.config.update("jax_enable_preemption_service", before)


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({}, {}),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, {}),
        (SLURM, {"num_processes": 1}),
        ({**TPU, "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, {}),
        (POD, {}),
        (POD | {"JOB_COMPLETION_INDEX": "0"}, {"num_processes": 1}),
    ],
)
def test_a_lone_process_joins_nobody(environment, options, joined, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    start(HostsConfig(**options))
    assert joined == {}


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        # What is None, JAX asks the launcher for.
        (SLURM, {}, {"coordinator": None, "num_processes": None, "cluster_detection_method": None}),
        (OPEN_MPI_4, {}, {"coordinator": None, "num_processes": None, "cluster_detection_method": None}),
        (TPU, {}, {"coordinator": None, "num_processes": None, "cluster_detection_method": None}),
        (
            TPU,
            {"coordinator": "a:1"},
            {"coordinator": "a:1", "num_processes": 4, "process_id": 3, "cluster_detection_method": "deactivate"},
        ),
        (
            {},
            {"coordinator": "a:1", "num_processes": 3, "process_id": 2, "heartbeat_seconds": 30},
            {
                "coordinator": "a:1",
                "num_processes": 3,
                "process_id": 2,
                "cluster_detection_method": "deactivate",
                "heartbeat_timeout_seconds": 30,
            },
        ),
        # JAX still has the launcher say which devices are this process's.
        (
            OPEN_MPI,
            {"coordinator": "a:1"},
            {"coordinator": "a:1", "num_processes": 4, "process_id": 3, "cluster_detection_method": None},
        ),
        (
            POD | {"JOB_COMPLETION_INDEX": "2"},
            {"coordinator": "a:1", "num_processes": 5},
            {"coordinator": "a:1", "num_processes": 5, "process_id": 2, "cluster_detection_method": "deactivate"},
        ),
    ],
)
def test_hosts_join_by_flags_and_by_launcher(environment, options, expected, joined, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    start(HostsConfig(**options))
    assert {name: joined[name] for name in expected} == expected
    assert joined["heartbeat_timeout_seconds"] == joined["shutdown_timeout_seconds"] in (20, 30)
    assert joined["initialization_timeout"] == 600
    assert not jax.config.jax_enable_preemption_service


def test_hosts_of_different_machines_are_refused(joined, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(process_index=host) for host in (1, 0, 1)])
    with pytest.raises(
        ValueError, match=r"^all hosts must have the same number of devices, got \[1, 2\], host 0 first"
    ):
        start(HostsConfig(coordinator="a:1", num_processes=2, process_id=0))


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        (
            {},
            {"num_processes": 2, "process_id": 0},
            r"^coordinator must be given with num_processes and process_id, got",
        ),
        (
            {},
            {"coordinator": "a:1", "process_id": 0},
            r"^num_processes and process_id must be given with a coord",
        ),
        (OPEN_MPI, {}, r"^coordinator must be given under this version of Open MPI"),
        (POD | {"JOB_COMPLETION_INDEX": "0"}, {}, r"^the package kubernetes must be installed"),
    ],
)
def test_too_little_to_join_by_is_an_error(environment, options, message, joined, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        start(HostsConfig(**options))
    assert joined == {}


def test_hosts_of_a_tpu_that_nobody_named_are_an_error(joined, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(
        ValueError, match=r"^coordinator, num_processes and process_id must be given on a TPU of 4 hosts"
    ):
        start(HostsConfig())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "localhost"}, r"^coordinator must be HOST:PORT, got coordinator='localhost'\.$"),
        ({"num_processes": 0}, r"^num_processes must be at least 1, got num_processes=0\.$"),
        ({"num_processes": 2, "process_id": 2}, r"got process_id=2 and num_processes=2\.$"),
        ({"process_id": -1}, r"^process_id must be from 0 to num_processes - 1, got process_id=-1"),
        ({"heartbeat_seconds": 0}, r"^heartbeat_seconds must be at least 1, got heartbeat_seconds=0\.$"),
    ],
)
def test_wrong_flags_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        HostsConfig(**options)
    HostsConfig(process_id=5)  # of so many as a launcher says
    HostsConfig(num_processes=2, process_id=1, heartbeat_seconds=1)


# Agreeing.


def test_the_first_difference_is_told_in_one_line():
    same = {"config": {"seed": 1, "run": "r"}, "data": "ab"}
    assert disagreement([same, same]) is None
    other = {"config": {"seed": 9, "run": "r"}, "data": "ab"}
    assert disagreement([same, other]) == "all hosts must have the same config.seed, got 1 on host 0 and 9 on host 1."
    far = {"config": {"seed": 9, "run": "r"}, "data": "cd", "more": None}
    assert disagreement([same, far, far, same]) == (
        "all hosts must have the same config.seed, got 1 on hosts 0, 3 and 9 on hosts 1, 2 (and 1 more: data)."
    )
    many, none = (dict.fromkeys("abcdef", value) for value in (1, 2))
    assert disagreement([many, none]).endswith("(and 5 more: b, c, d).")
    long = disagreement([{"a": "x" * 300}, {"a": "y"}])
    assert long == f"all hosts must have the same a, got '{'x' * 199} on host 0 and 'y' on host 1."
    assert disagreement([{"a": 1}, {}]) == "all hosts must have the same a, got 1 on host 0 and None on host 1."
    assert disagreement([{}, {"a": 1}]) == "all hosts must have the same a, got None on host 0 and 1 on host 1."


def test_fingerprints_tell_data_apart():
    numbers = np.arange(6, dtype=np.int32)
    assert fingerprint(numbers, ["a", "b"]) == fingerprint(numbers.copy(), iter(["a", "b"]))
    different = [
        fingerprint(numbers, ["a", "b"]),
        fingerprint(numbers, ["ab"]),
        fingerprint(numbers.reshape(2, 3), ["a", "b"]),
        fingerprint(numbers.astype(np.uint32), ["a", "b"]),
        fingerprint(np.arange(6, dtype=np.int32)[::-1], ["a", "b"]),
        fingerprint(np.zeros(0, np.int32)),
    ]
    assert len(set(different)) == len(different)


def test_a_lone_process_agrees_with_itself():
    with agreement() as facts:
        facts["seed"] = 1
    with pytest.raises(KeyError, match="lost"), agreement():
        raise KeyError("lost")
    assert (is_writer(), label(), largest(15)) == (True, "", 15)


@pytest.fixture
def two_hosts(monkeypatch) -> list:
    """What this host, the first of two, tells the other, whose answer stands in the list before."""
    told: list = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("lmx.hosts.meet", lambda: told.append("met"))
    monkeypatch.setattr("lmx.hosts._exchange", lambda item: told.append(item) or [item, told[0]])
    return told


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"facts": {"seed": 1}, "error": None}, None),
        (
            {"facts": {"seed": 2}, "error": None},
            r"^all hosts must have the same seed, got 1 on host 0 and 2 on host 1\.",
        ),
        ({"facts": {}, "error": "a.txt must exist."}, r"^host 1 stopped: a\.txt must exist\.$"),
    ],
)
def test_hosts_go_on_together_or_stop_with_one_line(answer, message, two_hosts):
    two_hosts.append(answer)
    with contextlib.nullcontext() if message is None else pytest.raises(ValueError, match=message):  # noqa: SIM117
        with agreement() as facts:
            facts["seed"] = 1
    assert two_hosts[1:] == ["met", {"facts": {"seed": 1}, "error": None}]


@pytest.mark.parametrize(("error", "told"), [(KeyError("lost"), "'lost'"), (AssertionError(), "AssertionError")])
def test_a_host_that_fails_tells_the_others_and_keeps_its_own_error(error, told, two_hosts):
    two_hosts.append({"facts": {}, "error": None})
    with pytest.raises(type(error)) as raised, agreement():
        raise error
    assert raised.value is error
    assert two_hosts[1:] == ["met", {"facts": {}, "error": told}]


def test_hosts_wait_for_each_other_for_a_week_and_say_what_failed(monkeypatch):
    asked = []

    def wait_at_barrier(name: str, milliseconds: int) -> None:
        asked.append((name, milliseconds))
        if len(asked) == 2:
            raise RuntimeError("lost\n  host 1")

    client = SimpleNamespace(wait_at_barrier=wait_at_barrier)
    monkeypatch.setattr("lmx.hosts.distributed.global_state.client", client)
    meet()  # alone
    assert asked == []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    meet()
    with pytest.raises(RuntimeError, match=r"^the hosts must meet, got lost host 1\.$"):
        meet()
    assert {milliseconds for _, milliseconds in asked} == {7 * 24 * 3600 * 1000}
    assert len({name for name, _ in asked}) == 2


def test_what_hosts_tell_may_differ_in_length(monkeypatch):
    other = json.dumps({"b": "längere Worte"}).encode()

    def gather(value: np.ndarray) -> np.ndarray:
        if value.ndim == 0:
            return np.array([value, len(other)])
        assert len(value) == max(len(other), len(b'{"a": 1}'))
        return np.stack([value, np.frombuffer(other.ljust(len(value), b"\0"), np.uint8)])

    monkeypatch.setattr("lmx.hosts.multihost_utils.process_allgather", gather)
    assert _exchange({"a": 1}) == [{"a": 1}, {"b": "längere Worte"}]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("lmx.hosts.multihost_utils.process_allgather", lambda value: np.array([value, 9]))
    assert (largest(15), largest(3)) == (15, 9)


# Sharing the rows.


def mesh_of(**sizes: int) -> jax.sharding.Mesh:
    config = MeshConfig(**({"data": 1} | sizes))
    return make_mesh(config, devices=jax.devices()[: int(np.prod(list(sizes.values())))])


@pytest.mark.parametrize(
    ("sizes", "hosts", "expected"),
    [
        ({"data": 8}, 1, [(0, 24)]),
        ({"data": 8}, 2, [(0, 12), (12, 24)]),
        ({"data": 2, "fsdp": 4}, 4, [(0, 6), (6, 12), (12, 18), (18, 24)]),
        ({"data": 2, "fsdp": 2, "tensor": 2}, 2, [(0, 12), (12, 24)]),
        # Tensor spans hosts: two and two make the same rows.
        ({"data": 2, "tensor": 4}, 4, [(0, 12), (0, 12), (12, 24), (12, 24)]),
        ({"fsdp": 2, "sequence": 4}, 8, [(0, 12)] * 4 + [(12, 24)] * 4),
        ({"tensor": 8}, 2, [(0, 24), (0, 24)]),
    ],
)
def test_each_host_makes_only_its_rows(sizes, hosts, expected):
    mesh = mesh_of(**sizes)
    parts = np.split(mesh.devices.ravel(), hosts)
    found = [rows_on(mesh, 24, devices=list(part)) for part in parts]
    assert [(part.start, part.stop) for part in found] == expected
    assert rows_on(mesh, 24) == slice(0, 24)


def test_rows_that_are_not_consecutive_are_told_by_number():
    mesh = mesh_of(data=8)
    assert rows_on(mesh, 24, devices=[mesh.devices.ravel()[2], mesh.devices.ravel()[0]]).tolist() == [0, 1, 2, 6, 7, 8]
    with pytest.raises(ValueError, match=r"^axis 'batch' must be divisible by its 8 devices"):
        rows_on(mesh, 20)


def test_rows_are_placed_and_fetched_whole():
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    assert batch_shards(mesh) == 4
    rows = np.arange(24).reshape(8, 3)
    placed = place_rows({"source": rows}, mesh)
    assert placed["source"].sharding == named_sharding(mesh, ("batch", None))
    np.testing.assert_array_equal(fetch(placed)["source"], rows)
    assert fetch(placed, keep=False) == {"source": None}


@pytest.mark.parametrize(("limit", "pieces"), [(1, 8), (40, 3), (96, 1), (1 << 30, 1)])
def test_devices_hold_a_piece_of_an_array_whole_on_its_way_to_a_host(limit: int, pieces: int, monkeypatch):
    """Eight rows of 12 bytes: pieces of three overlap at the end."""
    mesh, made = mesh_of(data=2, fsdp=2, tensor=2), []
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    array = place_rows({"source": rows}, mesh)["source"]
    monkeypatch.setattr("lmx.sharding.placement.GATHERED_BYTES", limit)
    whole = jax.lax.dynamic_slice_in_dim
    monkeypatch.setattr(
        jax.lax, "dynamic_slice_in_dim", lambda array, begin, size: made.append(size) or whole(array, begin, size)
    )
    np.testing.assert_array_equal(in_pieces(array, sharding=replicated(mesh), keep=True), rows)
    assert made == [-(-8 // pieces)]  # one program
    assert made[0] * 12 <= max(limit, 12)
    assert in_pieces(array, sharding=replicated(mesh), keep=False) is None


class Meeting:
    """The distributed runtime's client as threads see it that play hosts."""

    def __init__(self, hosts: int):
        self.told: dict[str, str] = {}
        self._barrier = threading.Barrier(hosts)

    def key_value_set(self, key: str, value: str) -> None:
        self.told[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        return [each for each in [*self.told.items()] if each[0].startswith(key)]

    def key_value_delete(self, key: str) -> None:
        for each in [each for each in [*self.told] if each.startswith(key)]:
            del self.told[each]

    def wait_at_barrier(self, name: str, milliseconds: int) -> None:
        self._barrier.wait(10)


def test_hosts_do_not_wait_for_the_part_of_one_whose_save_failed(monkeypatch):
    here, found, client = threading.local(), {}, Meeting(3)
    monkeypatch.setattr("lmx.hosts.jax.process_count", lambda: 3)
    monkeypatch.setattr("lmx.hosts.jax.process_index", lambda: here.host)
    monkeypatch.setattr("lmx.hosts.distributed.global_state", SimpleNamespace(client=client))

    class Places:
        def __next__(self) -> int:
            here.place = getattr(here, "place", -1) + 1
            return here.place

    monkeypatch.setattr("lmx.hosts._places", Places())

    def host(number: int, *keys: str) -> None:
        here.host, found[number] = number, []
        for key in keys:
            try:
                meet_in_save(key=key, timeout_ms=1000)
                found[number].append(key)
            except OSError as error:
                found[number].append(str(error))

    def save(number: int, *, parts: int = 2) -> list[str]:
        """The places of a save as Orbax has them; a host whose writing has failed passes none of its parts."""
        names = ["async_write_complete", "async_commit_complete"][:parts]
        return [f"{name}.{number}" for name in ("set_start", "set_end", *names, "unset_start", "unset_end")]

    given_up = "another host could not write its part"
    hosts = [
        (0, *save(1), *save(2, parts=0), *save(3, parts=1), *save(4)),  # it fails at writing, and at the end of it
        (1, *save(1), *save(2, parts=1), *save(3), *save(4)),  # what follows a part that is given up is left out
        (2, *save(1), *save(2, parts=1), *save(3), *save(4)),
    ]
    threads = [threading.Thread(target=host, args=each) for each in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found[0] == list(hosts[0][1:])
    for number in (1, 2):
        assert [told for told in found[number] if told == given_up] == [given_up] * 2
        assert found[number][-6:] == save(4)
        missing = {"async_write_complete.2", "async_commit_complete.3"}
        assert found[number] == [given_up if each in missing else each for each in hosts[number][1:]]
    assert len({key.split("/")[0] for key in client.told}) == 1  # what all have read is gone


# Real processes. One CPU device each, gloo between them.

TINY = """
    --model.width 16 --model.feedforward-width 24 --model.num-heads 2 --model.num-encoder-layers 1
    --model.num-decoder-layers 1 --model.unroll 1 --num-buckets 2 --tokens-per-batch 320 --updates 24 --validate-every 8
    --log-every 2 --bleu-sentences 3 --bleu-every 2 --average 2 --search.beam-size 2 --vocab-size 60
    --optimization.warmup 4 --hosts.heartbeat-seconds 10
""".split()
TIMED = ("seconds", "tokens_per_second", "data_wait")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    flags = []
    for seed, (split, count) in enumerate([("train", 300), ("validation", 30), ("test", 21)]):
        write_numbers(folder / f"{split}.tsv", count=count, seed=seed)
        flags += [f"--{split}", str(folder / f"{split}.tsv")]
    return flags


def write_numbers(path: Path, *, count: int, seed: int) -> None:
    """Writes pairs such as "two nine" and "zwei neun", as TSV."""
    english = "zero one two three four five six seven eight nine".split()
    german = "null eins zwei drei vier fünf sechs sieben acht neun".split()
    lines = []
    for row in np.random.default_rng(seed).integers(0, 10, size=(count, 7)):
        chosen = row[: 2 + row[0] % 5]
        lines.append(" ".join(english[i] for i in chosen) + "\t" + " ".join(german[i] for i in chosen))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def by_flags(host: int, number: int, port: int) -> tuple[list[str], dict[str, str]]:
    flags = f"--hosts.coordinator 127.0.0.1:{port} --hosts.num-processes {number} --hosts.process-id {host}"
    return (flags.split() if number > 1 else []), {}


def by_slurm(host: int, number: int, port: int) -> tuple[list[str], dict[str, str]]:
    return [], SLURM | {
        "SLURM_NTASKS": str(number),
        "SLURM_PROCID": str(host),
        "SLURM_LOCALID": str(host),
        "JAX_COORDINATOR_PORT": str(port),
    }


def by_open_mpi(host: int, number: int, port: int) -> tuple[list[str], dict[str, str]]:
    return [], OPEN_MPI_4 | {
        "OMPI_COMM_WORLD_SIZE": str(number),
        "OMPI_COMM_WORLD_RANK": str(host),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(host),
        "JAX_COORDINATOR_PORT": str(port),
    }


@contextlib.contextmanager
def launched(
    folder: Path,
    number: int,
    *arguments: str,
    script=("translation.py", "multi30k-raw"),
    launcher=by_flags,
    own=None,
    folders=None,
    machines=None,
    late=None,
) -> Iterator[list]:
    """Starts a script in so many processes; what they print goes to 0.out, 0.err and so on.

    Args:
        script: its name, and the preset.
        own: further arguments of one host, by its number.
        folders: where each host is started, which is also where it looks for modules first.
        machines: what gives every host but the first a machine of its own, see `another_machine`.
        late: seconds by which a host is started later, by its number.
    """
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with contextlib.ExitStack() as stack:
        processes = []
        for host in range(number):
            flags, environment = launcher(host, number, port)
            files = [stack.enter_context((folder / f"{host}.{kind}").open("w")) for kind in ("out", "err")]
            name, preset = script
            command = [sys.executable, str(ROOT / "experiments" / name), preset]
            command += [*arguments, *flags, *(own or {}).get(host, [])]
            if machines is not None and host > 0:
                command = [*machines(folder / f"{host}.boot"), *command]
            if late and host in late:
                command = ["sh", "-c", 'sleep "$0" && exec "$@"', str(late[host]), *command]
            place = folders[host] if folders else folder
            paths = f"{place}{os.pathsep}{ROOT}"
            environment = {**os.environ, **environment, "PYTHONPATH": paths, "COLUMNS": "200"}
            process = subprocess.Popen(command, cwd=place, env=environment, stdout=files[0], stderr=files[1])
            processes.append(stack.enter_context(process))
        try:
            yield processes
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()


def finish(folder: Path, number: int, *arguments: str, **options) -> Path:
    with launched(folder, number, *arguments, "--run", str(folder / "run"), **options) as processes:
        codes = [process.wait(timeout=900) for process in processes]
    assert codes == [0] * number, (folder / "0.err").read_text()[-3000:]
    return folder / "run"


def wait_for(text: str, folder: Path, processes: list) -> None:
    until = time.monotonic() + 900
    while text not in (folder / "0.out").read_text():
        assert time.monotonic() < until, f"{text!r} was never printed"
        assert all(process.poll() is None for process in processes), (folder / "0.err").read_text()[-3000:]
        time.sleep(0.05)


def lines_of(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]


@pytest.fixture(scope="module")
def one(data, tmp_path_factory) -> Path:
    return finish(tmp_path_factory.mktemp("one"), 1, *data, *TINY)


@pytest.fixture(scope="module")
def two(data, tmp_path_factory) -> Path:
    return finish(tmp_path_factory.mktemp("two"), 2, *data, *TINY)


def assert_the_same_run(found: Path, expected: Path) -> None:
    """The same but for the order in which float32 sums are taken.

    Dropout, the data and the first parameters are the same to the bit, so what differs is rounding: about 1e-7 of a
    number in each step. The bias of a key adds the same to all scores of a query, its gradient is nothing but rounding,
    and Adam makes that as large as any other: it is left out.
    """
    lines, others = lines_of(found), lines_of(expected)
    assert [(line["kind"], line["step"]) for line in lines] == [(line["kind"], line["step"]) for line in others]
    for line, other in zip(lines, others, strict=True):
        assert line.keys() == other.keys()
        for name in line.keys() - {"kind"}:
            assert line[name] == pytest.approx(other[name], rel=1e-5), (line["step"], name)
    params, others = load_file(found / "model.safetensors"), load_file(expected / "model.safetensors")
    assert params.keys() == others.keys()
    for name in params:
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(params[name], others[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert (found / "test.hypotheses.txt").read_bytes() == (expected / "test.hypotheses.txt").read_bytes()
    scores, others = (json.loads((run / "scores.json").read_text())["rows"] for run in (found, expected))
    assert [row["score"] for row in scores] == [row["score"] for row in others]


def assert_silent(folder: Path, host: int) -> None:
    printed = (folder / f"{host}.out").read_text().splitlines()
    # Gloo, the library below JAX that carries the sums between CPUs, reports its connections.
    assert [line for line in printed if not line.startswith("[Gloo]")] == []
    assert (folder / f"{host}.err").read_text() == ""


def assert_one_wrote_and_spoke(folder: Path, number: int) -> None:
    for host in range(1, number):
        assert_silent(folder, host)
    printed = (folder / "0.out").read_text()
    assert f"{number} x cpu, {number} hosts" in printed
    assert "multi30k-raw test BLEU = " in printed
    names = {path.name for path in (folder / "run").iterdir()}
    assert {"config.json", "tokenizer.model", "model.safetensors", "attention.json", "report.html"} <= names
    assert not [name for name in names if "partial" in name]
    assert "hosts" not in json.loads((folder / "run" / "config.json").read_text())["config"]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(one, two, data, tmp_path):
    assert_the_same_run(two, one)
    assert_one_wrote_and_spoke(two.parent, 2)
    # What two processes saved, one restores, averages and writes again: the same to the bit.
    parameters = (two / "model.safetensors").read_bytes()
    shutil.copytree(two, tmp_path / "run", ignore=shutil.ignore_patterns("model.safetensors"))
    assert (finish(tmp_path, 1, *data, *TINY) / "model.safetensors").read_bytes() == parameters


@pytest.mark.slow
def test_four_processes_give_what_one_gives_where_tensor_spans_hosts(one, data, tmp_path):
    run = finish(tmp_path, 4, *data, *TINY, "--mesh.fsdp", "2", "--mesh.tensor", "2", launcher=by_open_mpi)
    assert_the_same_run(run, one)
    assert_one_wrote_and_spoke(tmp_path, 4)
    assert "data=1, fsdp=2, tensor=2, sequence=1" in (tmp_path / "0.out").read_text()


@pytest.mark.slow
def test_a_run_whose_processes_are_killed_and_stopped_ends_bitwise_as_one_never_stopped(two, data, tmp_path):
    arguments = [*data, *TINY, "--run", str(tmp_path / "run")]
    with launched(tmp_path, 2, *arguments, launcher=by_slurm) as processes:
        wait_for("validation after 8", tmp_path, processes)
        processes[1].kill()
        began = time.monotonic()
        assert processes[0].wait(timeout=60) != 0
        assert time.monotonic() - began < 60
    # A signal to one host stops both, after the same step.
    with launched(tmp_path, 2, *arguments, launcher=by_slurm) as processes:
        wait_for("first step done", tmp_path, processes)
        processes[1].send_signal(signal.SIGTERM)
        assert [process.wait(timeout=600) for process in processes] == [75, 75]
    assert "stopped by SIGTERM" in (tmp_path / "0.out").read_text()
    run = finish(tmp_path, 2, *data, *TINY, launcher=by_slurm)
    assert lines_of(run) == lines_of(two)
    for name in ("model.safetensors", "test.hypotheses.txt"):
        assert (run / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "message"),
    [
        (["--seed", "9"], "all hosts must have the same config.seed, got 1 on host 0 and 9 on host 1."),
        # Each host has a validation.tsv of its own where it was started, and host 1 another release of a library.
        (["--validation", "validation.tsv"], "all hosts must have the same validation data, got "),
        (["versions"], "all hosts must have the same versions.sacrebleu, got "),
        (["--test", "absent.tsv"], "absent.tsv"),
    ],
)
def test_hosts_that_disagree_stop_with_a_line_that_says_what_differs(own, message, data, tmp_path):
    arguments = [*data, *TINY, "--run", str(tmp_path / "run")]
    folders = [tmp_path / "a", tmp_path / "b"]
    for host, folder in enumerate(folders):
        folder.mkdir()
        write_numbers(folder / "validation.tsv", count=30, seed=host)
    if own == ["versions"]:
        patch = "import importlib.metadata as m; known = m.version\n"
        patch += "m.version = lambda name: '0.1' if name == 'sacrebleu' else known(name)\n"
        (folders[1] / "sitecustomize.py").write_text(patch)
        own = []
    if "--validation" in own:
        arguments += own
    with launched(tmp_path, 2, *arguments, own={1: own}, folders=folders) as processes:
        assert [process.wait(timeout=600) for process in processes] == [2, 2]
    for host in (0, 1):
        (line,) = (tmp_path / f"{host}.err").read_text().splitlines()
        assert line.startswith(f"host {host}: error: ")
        assert message in line
    assert not (tmp_path / "run").exists()


# Several machines. XLA tells them apart by the number that a system draws when it boots; a process sees another one
# where a file is mounted in its place, in a namespace of its own.

BOOT_ID = "/proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def another_machine():
    """Returns a function from a file to the beginning of a command that runs the rest as on another machine."""
    obstacle = "there is no unshare"
    for unshare in (["unshare", "-m"], ["unshare", "-r", "-m"]) if shutil.which("unshare") else ():

        def start_of(boot: Path, unshare=unshare) -> list[str]:
            boot.write_text(f"{uuid.uuid4()}\n")
            return [*unshare, "sh", "-c", f'mount --bind "$0" {BOOT_ID} && exec "$@"', str(boot)]

        with tempfile.TemporaryDirectory() as folder:
            boot = Path(folder) / "boot"
            done = subprocess.run([*start_of(boot), "cat", BOOT_ID], capture_output=True, text=True)
            if done.returncode == 0 and done.stdout == boot.read_text() != Path(BOOT_ID).read_text():
                return start_of
            obstacle = f"{' '.join(unshare)} does not hide {BOOT_ID}: {' '.join(done.stderr.split())}"
    if os.environ.get("CI"):
        pytest.fail(f"what needs two machines must be tested here: {obstacle}")
    return pytest.skip(f"two machines cannot be had here: {obstacle}")


# Two devices a host. Rows are placed, summed over all and fetched, on the mesh that lmx makes and on one where a host's
# rows are not consecutive; before that, one host takes its time.
TALK = """
import sys, time
import jax, numpy as np
from jax._src import distributed
from lmx.hosts import HostsConfig, agreement, start, wait
from lmx.sharding.mesh import MeshConfig, connect, make_mesh
from lmx.sharding.placement import fetch, place_rows, rows_on

options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
coordinator, number, host = (options[f"--hosts.{name}"] for name in ("coordinator", "num-processes", "process-id"))
start(HostsConfig(coordinator=coordinator, num_processes=int(number), process_id=int(host), heartbeat_seconds=10))
def connections():
    return len(distributed.global_state.client.key_value_dir_get_bytes("cpu:gloo"))
met = connections()
with agreement() as facts:
    time.sleep(float(options.get("--reading", 0)))
    facts["devices"] = [str(device) for device in jax.devices()]
slices = [device.slice_index for device in jax.devices()]
rows = np.arange(24).reshape(8, 3)
mixed = [jax.devices()[i] for i in (2, 0, 1, 3)]
for mesh in (make_mesh(MeshConfig(fsdp=2)), make_mesh(MeshConfig(fsdp=2), devices=mixed)):
    before, _ = connections(), connect(mesh)
    connected, _ = connections(), wait("all have counted")
    held = rows_on(mesh, 8)
    placed = place_rows({"rows": rows[held]}, mesh)["rows"]
    for shard in placed.addressable_shards:
        assert (np.asarray(shard.data) == rows[shard.index]).all()
    assert int(jax.jit(lambda x: (x * x).sum())(placed)) == (rows * rows).sum()
    assert (fetch({"rows": placed})["rows"] == rows).all()
    assert connections() == connected >= before
    print(host, met > 0, connected > met, slices, rows[held][:, 0].tolist(), flush=True)
wait("the end")
"""


def talk(folder: Path, another_machine, *arguments: str, monkeypatch, **options) -> list[list[str]]:
    """Returns what each of two hosts on two machines says."""
    (folder / "talk.py").write_text(TALK)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    options |= {"script": (folder / "talk.py", "talk"), "machines": another_machine}
    with launched(folder, 2, *arguments, **options) as processes:
        codes = [process.wait(timeout=500) for process in processes]
    assert codes == [0, 0], (folder / "0.err").read_text()[-3000:] + (folder / "1.err").read_text()[-3000:]
    printed = [(folder / f"{host}.out").read_text().splitlines() for host in range(2)]
    # Gloo's threads speak on standard output too, and may take a line of theirs apart.
    return [[line for line in lines if re.match(r"\d (True|False) ", line)] for lines in printed]


SAID = [
    ["0 True True [0, 0, 1, 1] [0, 3, 6, 9]", "0 True True [0, 0, 1, 1] [6, 9, 12, 15]"],
    ["1 True True [0, 0, 1, 1] [12, 15, 18, 21]", "1 True True [0, 0, 1, 1] [0, 3, 18, 21]"],
]


def test_hosts_on_two_machines_share_meshes_of_any_order(another_machine, tmp_path, monkeypatch):
    assert talk(tmp_path, another_machine, monkeypatch=monkeypatch) == SAID


@pytest.mark.slow
def test_a_host_that_comes_late_joins_and_one_that_reads_long_is_waited_for(another_machine, tmp_path, monkeypatch):
    options = {"late": {1: 90}, "own": {0: ["--reading", "45"]}}
    assert talk(tmp_path, another_machine, monkeypatch=monkeypatch, **options) == SAID


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data=2, fsdp=1", "data=1, fsdp=2"])
def test_a_run_on_two_machines_is_killed_continues_and_scores_as_on_one(mesh, one, data, another_machine, tmp_path):
    sizes = [flag.strip() for size in mesh.split(", ") for flag in f"--mesh.{size}".split("=")]
    arguments = [*data, *TINY, *sizes]
    with launched(tmp_path, 2, *arguments, "--run", str(tmp_path / "run"), machines=another_machine) as processes:
        wait_for("validation after 8", tmp_path, processes)
        while not (tmp_path / "run" / "checkpoints" / "8").is_dir():  # it is saved while training goes on
            assert processes[0].poll() is None, (tmp_path / "0.err").read_text()[-3000:]
            time.sleep(0.05)
        processes[1].kill()
        assert processes[0].wait(timeout=100) != 0
    run = finish(tmp_path, 2, *arguments, machines=another_machine)
    printed = (tmp_path / "0.out").read_text()
    assert "continuing" in printed
    assert f"{mesh}, tensor=1, sequence=1" in printed
    assert_the_same_run(run, one)
    assert_one_wrote_and_spoke(tmp_path, 2)


# What docs/ shows, in a small form: the files' own commands, with what makes a training tiny behind them.

SMALL = """
    --model.width 16 --model.feedforward-width 24 --model.num-heads 2 --model.num-encoder-layers 1
    --model.num-decoder-layers 1 --model.unroll 1 --model.dtype float32 --num-buckets 1 --tokens-per-device 320
    --updates 6 --validate-every 3 --save-every 2 --log-every 2 --average 1 --search.beam-size 2 --vocab-size 60
    --hosts.heartbeat-seconds 10
""".split()


@pytest.fixture
def repository(data, tmp_path) -> Path:
    """A folder in which the commands of docs/ find the scripts, an environment and a corpus."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    corpus = tmp_path / "data" / "corpus"
    corpus.mkdir(parents=True)
    for name, path in zip(("train", "valid", "test"), map(Path, data[1::2]), strict=True):
        columns = zip(*(line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()), strict=True)
        for language, lines in zip(("en", "de"), columns, strict=True):
            with gzip.open(corpus / f"{name}.{language}.gz", "wt", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
    return tmp_path


# Slurm's commands: one starts two tasks, as on two nodes, and ends as the worst of them does; the other takes notes.
SRUN = """#!/bin/bash
shift
for task in 0 1; do
    SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_PROCID=$task SLURM_LOCALID=$task "$@" $SMALL \
        > $task.out 2> $task.err &
    echo $! > $task.pid
done
status=0
for job in $(jobs -p); do wait "$job"; code=$?; [ $code -gt $status ] && status=$code; done
exit $status
"""
SCONTROL = '#!/bin/bash\necho "$@" >> scontrol.out\n'


@pytest.mark.slow
def test_the_slurm_file_trains_goes_back_into_the_queue_and_continues(repository, monkeypatch):
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (repository / "bin").mkdir(exist_ok=True)
        (repository / "bin" / name).write_text(text)
        (repository / "bin" / name).chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("PATH", f"{repository / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_COORDINATOR_PORT", str(port))
    monkeypatch.setenv("SLURM_JOB_ID", "81")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")

    def submit(*more: str) -> subprocess.Popen:
        monkeypatch.setenv("SMALL", " ".join([*SMALL, *more]))
        return subprocess.Popen(["bash", str(ROOT / "docs" / "slurm.sh")], cwd=repository)

    with submit() as job:
        until = time.monotonic() + 500
        while not (repository / "0.out").exists() or "step 2 of 6" not in (repository / "0.out").read_text():
            assert job.poll() is None, (repository / "0.err").read_text()[-3000:]
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(int((repository / "1.pid").read_text()), signal.SIGTERM)
        assert job.wait(timeout=500) == 75
    assert (repository / "scontrol.out").read_text() == "requeue 81\n"
    with submit() as job:
        assert job.wait(timeout=500) == 0, (repository / "0.err").read_text()[-3000:]
    printed = (repository / "0.out").read_text()
    assert "continuing" in printed
    assert re.search(r"tokens per device +\d+ an update", printed)
    # What a person has to mend does not go back into the queue.
    with submit("--rows-multiple", "17") as job:
        assert job.wait(timeout=500) == 2
    assert "config.rows_multiple=16 there and 17 here" in (repository / "0.err").read_text()
    assert (repository / "scontrol.out").read_text() == "requeue 81\n"


@pytest.mark.slow
def test_the_pods_of_the_jobset_train(repository, monkeypatch):
    (jobset,) = [part for part in yaml.safe_load_all((ROOT / "docs" / "jobset.yaml").read_text()) if "spec" in part]
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    command = spec["template"]["spec"]["containers"][0]["command"]
    assert command[:2] == ["python", "-u"]
    command = [word.replace("/shared/runs", "runs").replace("/shared", "data") for word in command]
    # The flags with which the page does without the package kubernetes; here pod 0 is near.
    page = (ROOT / "docs" / "many-machines.md").read_text(encoding="utf-8")
    (flags,) = re.findall(r"^--hosts\.coordinator translation-hosts-0-0\S+ .*$", page, re.M)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = [address if word.startswith("translation-") else word for word in flags.split()]
    assert flags[-1] == str(spec["completions"])
    pods = []
    for index in range(spec["completions"]):
        environment = {**os.environ, **POD, "JOB_COMPLETION_INDEX": str(index), "PYTHONPATH": str(ROOT)}
        with (repository / f"{index}.out").open("w") as out, (repository / f"{index}.err").open("w") as err:
            words = [sys.executable, *command[1:], *flags, *SMALL]
            pods.append(subprocess.Popen(words, cwd=repository, env=environment, stdout=out, stderr=err))
    assert [pod.wait(timeout=900) for pod in pods] == [0, 0], (repository / "0.err").read_text()[-3000:]
    assert "2 x cpu, 2 hosts" in (repository / "0.out").read_text()
    assert (repository / "runs" / "corpus" / "scores.json").is_file()


CLASSIFY = ("classification.py", "own")
TINY_CLASSIFIER = """
    --model.width 16 --model.feedforward-width 24 --model.num-heads 2 --model.num-layers 1 --model.unroll 1
    --num-buckets 2 --tokens-per-batch 256 --epochs 4 --max-length 32 --log-every 2 --tokenizer words --min-count 1
    --optimization.warmup 4 --optimization.peak 0.02 --seeds 2 --explain 1 --attention --no-baseline
    --hosts.heartbeat-seconds 10
""".split()


def write_parities(path: Path, *, count: int, seed: int, labelled: bool = True) -> None:
    """Writes texts of numbers, and whether the first is even."""
    english = "zero one two three four five six seven eight nine".split()
    lines = ["text,label" if labelled else "text"]
    for row in np.random.default_rng(seed).integers(0, 10, size=(count, 8)):
        text = " ".join(english[i] for i in row[: 2 + row[1] % 6])
        lines.append(f"{text},{('even', 'odd')[row[0] % 2]}" if labelled else text)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.slow
def test_two_processes_train_classifiers_as_one_does(tmp_path):
    flags = []
    for seed, (split, count) in enumerate([("train", 200), ("validation", 31), ("test", 23), ("predict", 5)]):
        write_parities(tmp_path / f"{split}.csv", count=count, seed=seed, labelled=split != "predict")
        flags += [f"--{split}", str(tmp_path / f"{split}.csv")]
    one, two = (finish(tmp_path / str(number), number, *flags, *TINY_CLASSIFIER, script=CLASSIFY) for number in (1, 2))
    assert_silent(two.parent, 1)
    assert "2 x cpu, 2 hosts" in (two.parent / "0.out").read_text()
    # The files are the same, but for rounding: a single writer, the whole test set, each text in its place.
    for name in ("references.tsv", "labels.json", "tokenizer.vocab"):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    for name in ("predictions.tsv", "labelled.tsv"):
        found, expected = ([line.split("\t") for line in (run / name).read_text().splitlines()] for run in (two, one))
        assert [row[:2] for row in found] == [row[:2] for row in expected]
        np.testing.assert_allclose(*([float(row[2]) for row in rows[1:]] for rows in (found, expected)), atol=1e-4)
    for line, other in zip(lines_of(two), lines_of(one), strict=True):
        for each in (line, other):
            each |= {f"{name} by seed": values for name, values in each.pop("seeds").items()}
        assert line.keys() == other.keys()
        for name in line.keys() - {"kind"}:
            assert line[name] == pytest.approx(other[name], rel=1e-4), (line["step"], name)
    for seed in (1, 2):
        params, others = (load_file(run / "seeds" / f"{seed}.safetensors") for run in (two, one))
        assert params.keys() == others.keys()
        for name in params:
            if not name.endswith("key.bias"):  # see assert_the_same_run
                np.testing.assert_allclose(params[name], others[name], rtol=1e-3, atol=1e-4, err_msg=name)
    (found,), (expected,) = (json.loads((run / "explanations.json").read_text()) for run in (two, one))
    assert found["text"] == expected["text"]
    # Processes that train together keep their programs with the run; one alone keeps them for the user.
    assert {path.name for path in two.iterdir()} - {"compiled"} == {path.name for path in one.iterdir()}
