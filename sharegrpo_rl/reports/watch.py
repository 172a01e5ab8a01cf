"""`watch`: the page of a run, a search or a comparison on 127.0.0.1, made again as the files in its folder grow.

Nothing is written, and no file is sent by its path. The page's script (`templates/watch.js`) asks for `/state` every two
seconds, fetches the page where its version is a new one, and replaces what differs.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from sharegrpo_rl.errors import UserError, require_extra
from sharegrpo_rl.reports.comparison_page import make_report
from sharegrpo_rl.reports.methods import METHODS_FILE, Method, Run, display_name, read_methods, read_run
from sharegrpo_rl.reports.options import Settings
from sharegrpo_rl.reports.pages import Table, data_uri, make_table, render, template_text
from sharegrpo_rl.reports.plots import draw_training
from sharegrpo_rl.reports.run_report import Groups, Images, rollout_images, run_page
from sharegrpo_rl.runs.folder import RunFolder
from sharegrpo_rl.statistics.formatting import NONE, clock, number, short

HOST = "127.0.0.1"
PAUSE = 4.0  # times the seconds that the last page took, until the next is made: a fifth of one core at most
WATCHED = ("*.json", "*.jsonl", "runs/*/*.json", "runs/*/*.jsonl", "trials/*/result.json")  # what pages are made of
RUN_FILE, SEARCH_FILE, REPORT_FILE = "params.json", "search_params.json", "report.json"
UNFINISHED = "unfinished"  # of a search and of its trials
SCRIPTS = {"/watch.js": "text/javascript", "/rollout_browser.js": "text/javascript", "/style.css": "text/css"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

ReadSearch: TypeAlias = Callable[[Path], tuple[Mapping[str, Any], Mapping[str, bytes]]]
Files: TypeAlias = tuple[tuple[str, int, int], ...]  # name, size and time of change (ns) of each


def watch(folder: Path, port: int, read_search: ReadSearch) -> int:
    """Serve the folder's page until a signal; the exit code, 143 after SIGTERM (Ctrl-C raises KeyboardInterrupt).

    read_search: the content of a search's folder with its plots as PNG; searches are not this room's to read.
    """
    require_extra("plots", "watch")
    check_folder(folder)
    with make_server(folder, port, read_search) as server:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        print(f"watching {folder} at http://{HOST}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()
    return 0


def check_folder(folder: Path) -> None:
    """UserError where a run, a search or a comparison can never be in this folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; begin the run first, or name the folder that it is in")
    if any((folder / name).exists() for name in (RUN_FILE, SEARCH_FILE, METHODS_FILE)):
        return
    if (folder / REPORT_FILE).exists():
        raise UserError(f"{folder}: compares runs of other folders, which is finished; open {folder / 'report.html'}")
    if inner := sorted(path.parent for name in (RUN_FILE, SEARCH_FILE) for path in folder.glob(f"*/{name}")):
        raise UserError(f"{folder}: a folder of runs; name one of them, such as {inner[0]}")


def make_server(folder: Path, port: int, read_search: ReadSearch) -> ThreadingHTTPServer:
    """The server, bound to 127.0.0.1; port 0 takes a free one. UserError where the port cannot be had."""
    page = LivePage(folder, read_search)

    class Handler(_Handler):
        live = page

    try:
        return _Server((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        why = "another program has it" if taken else str(error)
        raise UserError(f"--port {port}: cannot be had ({why}); give another --port, or 0 for any free one") from None


class LivePage:
    """The page of one folder: made where its files have changed, once for all who ask, by one thread at a time."""

    def __init__(self, folder: Path, read_search: ReadSearch) -> None:
        self.folder, self.read_search = folder, read_search
        self.images = KeptImages()
        self._lock = threading.Lock()
        self._files: Files | None = None
        self._version, self._page, self._due = "", "", 0.0

    def current(self) -> tuple[str, str]:
        """Version and text of the page."""
        with self._lock:
            files, began = watched_files(self.folder), time.monotonic()
            if files != self._files and began >= self._due:
                self._version = blake2b(repr(files).encode(), digest_size=8).hexdigest()
                self._page = self._make(self._version)
                self._files = files
                self._due = time.monotonic() + PAUSE * (time.monotonic() - began)
            return self._version, self._page

    def state(self) -> str:
        """What the page's script asks for: the version, and the seconds since a file changed."""
        version, _ = self.current()
        newest = max((time_ns for _, _, time_ns in self._files or ()), default=None)
        return json.dumps({"version": version, "seconds": newest and max(0, round(time.time() - newest / 1e9))})

    def _make(self, version: str) -> str:
        try:
            return self._page_of_folder(version)
        except UserError as error:
            return message_page(self.folder, str(error), version)
        except Exception as error:  # a fault of ours must not end the server: it is told here and there
            traceback.print_exc()
            said = f"The page could not be made: {type(error).__name__}: {error} (traceback in the terminal)."
            return message_page(self.folder, said, version)

    def _page_of_folder(self, version: str) -> str:
        if (self.folder / METHODS_FILE).exists():
            return comparison_page(self.folder, version)
        if (self.folder / SEARCH_FILE).exists():
            return search_page(*self.read_search(self.folder), version)
        if (self.folder / RUN_FILE).exists():
            return run_page(read_run(self.folder), self.images, live=version)
        files = f"{RUN_FILE} of a run, {SEARCH_FILE} of a search or {METHODS_FILE} of a comparison"
        return message_page(self.folder, f"Nothing has begun in this folder yet; waiting for {files}.", version)


class KeptImages:
    """`rollout_images`, which opens the data, only where the groups show other images than before."""

    def __init__(self) -> None:
        self._shown: list[tuple[Any, Any]] = []
        self._found: Images = ({}, "")

    def __call__(self, run: Run, groups: Groups) -> Images:
        shown = [(group["question_id"], slot["image"]) for group in groups for slot in group["slots"]]
        if shown != self._shown:
            self._shown, self._found = shown, rollout_images(run, groups)
        return self._found


def watched_files(folder: Path) -> Files:
    """The files that a page is made of, as they are now."""
    found = []
    for path in (path for pattern in WATCHED for path in folder.glob(pattern)):
        try:
            status = path.stat()
        except FileNotFoundError:  # replaced or removed since it was listed
            continue
        found.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))


# ---- pages


def message_page(folder: Path, message: str, version: str) -> str:
    """A page that only says something."""
    return _watch_page(str(folder), message, version)


def _watch_page(
    title: str,
    message: str,
    version: str,
    tables: Sequence[Table] = (),
    pictures: Sequence[Mapping[str, str]] = (),
    *,
    waits: bool = True,
    facts: Mapping[str, str] | None = None,
) -> str:
    content = {"title": title, "message": message, "waits": waits, "facts": facts or {}, "live": version}
    return render("watch.html", **content, tables=tables, pictures=pictures)


def comparison_page(folder: Path, version: str) -> str:
    """The comparison of what is finished, below a table of all runs; without a finished run that table and the curves."""
    methods = read_methods(folder)
    report = RunFolder(folder).read_json(REPORT_FILE) or {}  # of an earlier start, with its settings
    settings = Settings(**{key: report[key] for key in Settings.model_fields if key in report})
    progress = progress_table(methods)
    with TemporaryDirectory(prefix="sharegrpo_rl-") as scratch:
        if any(method.finished for method in methods):
            _, content = make_report(methods, settings, Path(scratch), report.get("command", ""))
            going_on = any(method.missing for method in methods)
            return render("comparison.html", **content | {"progress": going_on and progress, "live": version})
        pictures = draw_training([m for m in methods if m.runs], settings.confidence, Path(scratch))
        shown = [
            {"caption": p.caption, "source": data_uri((Path(scratch) / p.name).read_bytes(), "png")} for p in pictures
        ]
    message = "No run is finished yet; the comparison begins with the first."
    return _watch_page(str(folder), message, version, [progress], shown)


def progress_table(methods: Sequence[Method]) -> Table:
    """One row a run, those that have not begun included."""
    planned = [(m, seed, next((r for r in m.runs if r.seed == seed), None)) for m in methods for seed in m.seeds]
    columns = {
        "run": lambda row: f"{row[0].label}, seed {row[1]}",
        "state": lambda row: _run_state(row[2]),
        "iterations": lambda row: f"{len(row[2].rows)} of {row[2].planned_iterations}" if row[2] else NONE,
        "completions": lambda row: number(row[2].axes["completions"][-1]) if row[2] else NONE,
        "seconds of training": lambda row: number(row[2].axes["seconds"][-1]) if row[2] else NONE,
    }
    done = sum(run is not None and run.finished for _, _, run in planned)
    return make_table("Progress", columns, planned, f"{done} of {len(planned)} runs are finished.")


def _run_state(run: Run | None) -> str:
    if run is None:
        return "not begun"
    return "finished" if run.finished else "begun"


def search_page(results: Mapping[str, Any], plots: Mapping[str, bytes], version: str) -> str:
    """The trials so far as a table, with the search's two plots."""
    best, trials, metric = results["best"], results["trials"], results["metric"]
    over, goes_on = sum(trial["status"] != UNFINISHED for trial in trials), results["ended"] == UNFINISHED
    ended = "Not finished" if goes_on else f"The search has ended ({results['ended']})"
    said = f"{ended}: {over} of {results['planned_trials']} trials are over"
    if best:
        said += (
            f"; the best{' so far' if goes_on else ''} is {best['name']} with {metric} {number(best['metric'], '.4g')}"
        )
    failed = [trial for trial in trials if trial["error"]]
    errors = make_table("Errors", {"trial": lambda t: t["name"], "error": lambda t: t["error"]}, failed, text=True)
    return _watch_page(
        f"Search over {display_name(results['run'])} on {results['env']}, seed {results['seed']}",
        f"{said}.",
        version,
        [trial_table(results), *([errors] if failed else [])],
        [
            {"caption": name.removesuffix(".png").replace("_", " ").capitalize(), "source": data_uri(image, "png")}
            for name, image in plots.items()
        ],
        waits=goes_on,
        facts={
            "compared by": f"{metric}, {results['mode']}",
            "scheduler": results["tune"]["scheduler"],
            "searcher": results["tune"]["searcher"],
            "completions": number(results["completions"]),
            "time": clock(results["seconds"]),
        },
    )


def trial_table(results: Mapping[str, Any]) -> Table:
    """One row a trial, with the values that are searched."""
    best, metric = results["best"], results["metric"]

    def searched(key: str) -> Callable[[Any], str]:
        return lambda trial: short(trial["config"][key])

    columns: dict[str, Callable[[Any], str]] = {
        "trial": lambda t: f"{t['name']}, the best" if best and t["name"] == best["name"] else t["name"],
        **{key: searched(key) for key in results["space"]},
        "status": lambda t: t["status"],
        "iterations": lambda t: f"{t['iterations']} of {results['iterations_of_a_trial']}",
        metric: lambda t: number(t["metric"], ".4g"),
        "failures": lambda t: number(t["failures"]),
    }
    return make_table("Trials", columns, results["trials"], "Longer ones first, then by the metric.")


# ---- HTTP


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a page that is still being made does not hold up the end

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader who goes away is no error; anything else is printed with its traceback."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of a few routes, for this machine's own names only."""

    live: LivePage
    timeout = 30.0

    def do_GET(self) -> None:
        """Send the page, its version, or one of its scripts."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].partition(":")[0] not in (HOST, "localhost"):
            self.send_error(403, "this server answers to 127.0.0.1 and localhost only")  # a name bound to our address
        elif self.path == "/":
            self._send(200, "text/html", self.live.current()[1])
        elif self.path == "/state":
            self._send(200, "application/json", self.live.state())
        elif self.path in SCRIPTS:
            self._send(200, SCRIPTS[self.path], template_text(self.path[1:]))
        else:
            self.send_error(404, "no such page")

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """One line of text, without what the reader sent; 405 for a method that is not known here."""
        if code == 501:
            code, message = 405, "only GET and HEAD"
        self.close_connection = True
        self._send(code, "text/plain", f"{code}: {message}\n", {"Allow": "GET, HEAD"} if code == 405 else {})

    def _send(self, code: int, kind: str, text: str, more: Mapping[str, str] | None = None) -> None:
        content = text.encode()
        self.send_response(code)
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content))}
        for name, value in (headers | HEADERS | dict(more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """Nothing about the versions here."""
        return "sharegrpo-rl"

    def log_message(self, format: str, *arguments: Any) -> None:
        """No line a request."""
