"""The licences of all packages of requirements.lock, as docs/licenses.md lists them.

python docs/make_licenses.py           writes the table, from what is installed
python docs/make_licenses.py --check   exit code 1 where page and lock name other packages or versions

A licence is what a package's own metadata says: its SPDX expression, else its licence field or classifier in SPDX's words,
else what its licence file begins with. Rows of packages that are not installed here (of other platforms) are kept.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK, PAGE = ROOT / "requirements.lock", ROOT / "docs" / "licenses.md"
MARK = "<!-- The rest is written by docs/make_licenses.py. -->"
UNKNOWN = "not installed where this page was made"
NOT_NAMED = "not named by the package"
# Words of metadata that are no SPDX expression.
SPDX = {
    "apache": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache license, version 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0", "apache software license": "Apache-2.0", "bsd 3-clause license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause", "2-clause bsd": "BSD-2-Clause", "mit license": "MIT", "isc license": "ISC",
    "isc license (iscl)": "ISC", "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0", "nvidia proprietary software": "LicenseRef-NVIDIA-Proprietary",
    "other/proprietary license": "LicenseRef-Proprietary",
}  # fmt: skip
EXPRESSION = re.compile(
    r"(?:[A-Za-z0-9.+-]*\d[A-Za-z0-9.+-]*|MIT|ISC|LicenseRef-[\w.-]+)(?: (?:AND|OR|WITH) [\w.+-]+)*"
)


def locked() -> list[tuple[str, str]]:
    """(name, version) of every package of the lock; a name comes twice where Python versions take two versions."""
    return re.findall(r"^([\w.-]+)==([\w.!+-]+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE)


def listed() -> dict[tuple[str, str], str]:
    """(name, version) -> licence, as the page has them."""
    table = PAGE.read_text(encoding="utf-8").partition(MARK)[2]
    return {
        (name, version): words
        for name, version, words in re.findall(r"^\| ([\w.-]+) \| (\d\S*) \| (.+) \|$", table, re.M)
    }


def license_of(package: Distribution) -> str:
    """The SPDX expression of an installed package, from the most exact statement that it makes."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return expression
    first = (about.get("License") or "").strip().split("\n")[0].strip()
    classifiers = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if line.startswith("License")]
    for words in (first, *classifiers):
        if EXPRESSION.fullmatch(words):
            return words
        if known := SPDX.get(words.lower()):
            return known
    if found := next((found for text in _license_texts(package) if (found := _recognized(text))), None):
        return found
    return f"{first} (no more is said)" if 0 < len(first) < 30 else NOT_NAMED


def _license_texts(package: Distribution) -> list[str]:
    """The long licence field, then the files of the package that are named like one."""
    files = [f for f in package.files or [] if re.match(r"(licen[cs]e|copying)", f.name, re.IGNORECASE)]
    texts = [Path(str(f.locate())).read_text(encoding="utf-8", errors="replace") for f in files]
    return [package.metadata.get("License") or "", *texts]


def _recognized(text: str) -> str | None:
    words = " ".join(text.split())
    if "Permission is hereby granted, free of charge" in words:
        return "MIT"
    if "Redistribution and use in source and binary forms" in words:
        return (
            "BSD-3-Clause" if re.search(r"(?i)neither the name|may not be used to endorse", words) else "BSD-2-Clause"
        )
    return "Apache-2.0" if re.search(r"Apache License,? Version 2\.0", words) else None


def table() -> str:
    """The Markdown after the mark: what is not permissive, then a row for each package."""
    kept, rows = listed(), {}
    for name, version in locked():
        try:
            rows[name, version] = license_of(distribution(name))
        except PackageNotFoundError:
            rows[name, version] = kept.get((name, version), UNKNOWN)
    mpl = sorted({name for (name, _), words in rows.items() if re.search(r"\bMPL", words)})
    strong = sorted({name for (name, _), words in rows.items() if re.search(r"\b[AL]?GPL", words)})
    closed = sorted({name for (name, _), words in rows.items() if "Proprietary" in words})
    unclear = sorted({name for (name, _), words in rows.items() if words in (UNKNOWN, NOT_NAMED)})
    kinds = {"GPL, LGPL or AGPL": strong, "MPL-2.0": mpl, "proprietary": closed, "unclear": unclear}
    lines = [f"- {kind}: {', '.join(names) or 'none'}" for kind, names in kinds.items()]
    lines += ["", "| package | version | licence |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {version} | {words} |" for (name, version), words in rows.items())])


def main() -> int:
    """0, or 1 where `--check` finds a page that is not current."""
    if "--check" in sys.argv[1:]:
        return int(sorted(listed()) != sorted(locked()))
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(f"{head}{MARK}\n\n{table()}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
