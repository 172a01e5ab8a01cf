"""Starting Ray, or joining a cluster; whatever fails on the way is one line that says what to do."""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

import ray

from sharegrpo_rl.errors import UserError

CONNECT_SECONDS = 5.0
ATTEMPTS = 3  # at starting Ray on a busy machine
START_SECONDS = "60"  # for one attempt; Ray's own limit is 30
MAX_SOCKET_PATH = 103  # bytes; 107 on Linux, 103 on macOS
SOCKET_SUFFIX = len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
SHORT_FOLDER = "/tmp/ray"

logger = logging.getLogger(__name__)


def start_or_join(**settings: Any) -> None:
    """Join the cluster of RAY_ADDRESS, or the one that runs on this machine; else `start_local`. UserError where no Ray
    answers at RAY_ADDRESS, or it does not let this process in. `num_cpus` counts only where Ray is started here.
    """
    address = _cluster_address()
    if address is None:
        start_local(**settings)
        return
    settings.pop("num_cpus", None)
    try:
        ray.init(address=address, **settings)
    except Exception as error:
        ray.shutdown()
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"RAY_ADDRESS: the Ray at {address} does not let this run in ({type(error).__name__}: {reason}); it has to be Ray "
            f"{ray.__version__}, and where it asks for a token, RAY_AUTH_MODE=token and the head node's ~/.ray/auth_token are "
            "needed here (or RAY_AUTH_MODE=disabled on all nodes, before `ray start`)"
        ) from error


def start_local(**settings: Any) -> None:
    """Start Ray on this machine, whatever else runs there; a second and third time where the machine is too busy for the
    first. UserError where its folder has too long a path, or it does not come up.
    """
    os.environ.setdefault("RAY_raylet_start_wait_time_s", START_SECONDS)
    folder = _temp_folder()
    if folder is not None:
        settings["_temp_dir"] = folder
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(address="local", **settings)
            return
        except Exception as error:
            ray.shutdown()
            reason = " ".join(str(error).split())[:200]
            if attempt == ATTEMPTS or "timed out" not in reason:
                raise UserError(
                    f"Ray does not start on this machine ({type(error).__name__}: {reason}); if the machine is busy, start "
                    f"again later; Ray's logs are in {folder or _default_folder()}/session_latest/logs"
                ) from error
            logger.warning("Ray did not start in time (attempt %d of %d); trying again", attempt, ATTEMPTS)


def _cluster_address() -> str | None:
    """The address to join; None where Ray is to be started here."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if address == "local":
        return None
    if address and address != "auto":
        if not _answers(address):
            raise UserError(
                f"RAY_ADDRESS: no Ray answers at {address} (HOST:PORT) within {CONNECT_SECONDS:g} s; start the cluster, or unset "
                "RAY_ADDRESS to use this machine alone"
            )
        return address
    file = Path(_default_folder()) / "ray_current_cluster"  # `ray start` leaves it, also when it is killed
    try:
        running = file.read_text(encoding="utf-8").strip()
    except OSError:
        running = ""
    if running and _answers(running):
        return running
    if address == "auto":
        raise UserError("RAY_ADDRESS: it says auto, and no Ray runs on this machine; start one with `ray start --head`")
    if running:
        logger.warning("%s names a Ray at %s, which does not answer; Ray is started here", file, running)
    return None


def _answers(address: str) -> bool:
    """Does anything listen at `[ray://]host:port`?"""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return False
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS):
            return True
    except (OSError, OverflowError):
        return False


def _default_folder() -> str:
    """Where Ray puts its sessions."""
    base = os.environ.get("RAY_TMPDIR") or (os.environ.get("TMPDIR") if sys.platform.startswith("linux") else None)
    return os.path.join(base or "/tmp", "ray")  # Ray's own choice


def _temp_folder() -> str | None:
    """A shorter folder where the default one would make socket paths too long; None to keep the default."""
    folder = _default_folder()
    if len(os.fsencode(folder)) + SOCKET_SUFFIX <= MAX_SOCKET_PATH:
        return None
    if os.environ.get("RAY_TMPDIR"):
        raise UserError(
            f"RAY_TMPDIR: {folder} is too long for Ray's sockets, whose paths may have {MAX_SOCKET_PATH} bytes; set it to a "
            "folder with a short path"
        )
    if not os.access(os.path.dirname(SHORT_FOLDER), os.W_OK):
        raise UserError(f"TMPDIR: {folder} is too long for Ray's sockets; set RAY_TMPDIR to a folder with a short path")
    return SHORT_FOLDER
