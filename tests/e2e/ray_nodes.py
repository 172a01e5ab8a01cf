"""Ray nodes on one machine that are as far apart as two machines: each has its own network, shared memory and folders."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PORT = 6411
RAY = str(Path(sys.executable).with_name("ray"))


def possible() -> bool:
    """Can this process make networks and mounts?"""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "mount"))):
        return False
    name = f"probe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return made


class Nodes:
    """A head in this machine's own network, which the driver shares, and others that reach it over a bridge.

    own: a folder that each node has for itself under the same path. All else on the disk is shared.
    """

    def __init__(self, own: Path, cpus: int) -> None:
        self.own, self.cpus = own, cpus
        own.mkdir(parents=True)
        self._temp = tempfile.mkdtemp(prefix="nodes", dir="/tmp")  # short: Ray's sockets lie there
        self._net = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self._tag = f"n{os.getpid()}"
        self._names: list[str] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.address = f"{self._net}.1:{PORT}"

    def __enter__(self) -> Nodes:
        _run(f"ip link add {self._tag} type bridge")
        _run(f"ip addr add {self._net}.1/24 dev {self._tag}")
        _run(f"ip link set {self._tag} up")
        self._start("", f"--head --port {PORT} --temp-dir {self._temp} --include-dashboard=false", 1)
        return self

    def add(self, without: Sequence[Path] = ()) -> str:
        """Another node; its name, once it is there. without: files and folders that are empty there."""
        number = len(self._names) + 2
        name = f"{self._tag}x{number}"
        self._names.append(name)
        _run(f"ip netns add {name}")
        _run(f"ip link add {name} type veth peer name eth0 netns {name}")
        _run(f"ip link set {name} master {self._tag} up")
        _run(f"ip -n {name} addr add {self._net}.{number}/24 dev eth0")
        _run(f"ip -n {name} link set eth0 up")
        _run(f"ip -n {name} link set lo up")
        _run(f"ip -n {name} route add default via {self._net}.1")
        self._start(name, f"--address {self.address}", number, without)
        return name

    def _start(self, name: str, how: str, number: int, without: Sequence[Path] = ()) -> None:
        arguments = f"{RAY} start {how} --node-ip-address {self._net}.{number} --num-cpus {self.cpus} --block"
        arguments += " --object-store-memory 150000000"
        if name:
            folders = ["/dev/shm", self._temp, self.own, *(path for path in without if path.is_dir())]
            mounts = " && ".join(
                [f"mount -t tmpfs own {folder}" for folder in folders]
                + [f"mount --bind /dev/null {path}" for path in without if path.is_file()]
            )
            arguments = f"ip netns exec {name} unshare -m sh -c '{mounts} && cd {self.own} && exec {arguments}'"
        out = open(Path(self._temp).with_suffix(f".{number}.log"), "wb")  # noqa: SIM115
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        self._processes[name] = subprocess.Popen(
            ["sh", "-c", f"exec {arguments}"], stdout=out, stderr=out, env=environment, start_new_session=True
        )
        self._wait_for(number)

    def _wait_for(self, count: int) -> None:
        """Until so many nodes are there; a count that grows only, for nodes that were killed are known still."""
        code = (
            f"import ray; ray.init(address='{self.address}', log_to_driver=False);"
            f"raise SystemExit(len(ray.nodes()) < {count})"
        )
        deadline = time.monotonic() + 240
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        while subprocess.run(
            [sys.executable, "-c", code], capture_output=True, env=environment, check=False
        ).returncode:
            assert time.monotonic() < deadline, "a node did not come up"
            time.sleep(1)

    @property
    def names(self) -> list[str]:
        """The nodes beside the head that are alive."""
        return [name for name in self._processes if name]

    def processes(self, name: str) -> str:
        """What runs on a node, by the titles that Ray gives its workers."""
        pids = subprocess.check_output(["ip", "netns", "pids", name], text=True).split()
        return subprocess.check_output(["ps", "-o", "args=", "-p", ",".join(pids)], text=True)

    def kill(self, name: str) -> None:
        """End everything on a node at once, as a power cut does."""
        for pid in subprocess.check_output(["ip", "netns", "pids", name], text=True).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self._processes.pop(name).wait()

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            self.kill(name)
        head = self._processes.pop("", None)
        if head is not None:
            head.terminate()  # it ends what it started
            head.wait()
        for name in self._names:
            _run(f"ip netns del {name}")
        _run(f"ip link del {self._tag}")
        shutil.rmtree(self._temp, ignore_errors=True)
        for log in Path("/tmp").glob(f"{Path(self._temp).name}.*.log"):
            log.unlink()


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)
