"""Tell which pinned versions have known vulnerabilities that nobody has explained: ``python .ci/audit.py PINS EXPLANATIONS``.

pip-audit asks; its options may follow the files. A finding without an explanation fails, and an explanation without a finding.
Where no service of vulnerabilities can be reached, one line says that there was no audit, and that is no failure: who is offline
must be able to lint.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

# The end of what pip-audit says where it got no answer. Certificates that are wrong and servers that fail are not among it.
UNREACHED = re.compile(
    r"requests\.exceptions\.(ConnectionError|ConnectTimeout|ReadTimeout|ProxyError)\b|.*network may be blocking"
)


class NotReachedError(Exception):
    """No service of vulnerabilities answers; the text says how that was seen."""


def answered(code: int, answer: str, said: str) -> list[dict[str, Any]]:
    """Return the packages of what pip-audit wrote in JSON, of its exit status and of what it said beside it."""
    last = (said.strip().splitlines() or [""])[-1]
    if not answer.strip():  # it ends with 1 for findings and for failures, but writes an answer for the former alone
        if UNREACHED.match(last):
            raise NotReachedError(last)
        sys.exit(f"{said}pip-audit gave no answer (exit status {code})")
    packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    if packages and all("skip_reason" in package for package in packages):  # a mirror without it knows none of them
        raise NotReachedError(f"it knows none of the {len(packages)} packages. {packages[0]['skip_reason']}")
    return packages


def explanations(path: str) -> dict[str, str]:
    """Return the package of each id in a file; lines are of an id, a package and a reason."""
    text = Path(path).read_text(encoding="utf-8")
    lines = [line.split(maxsplit=2) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if short := [" ".join(words) for words in lines if len(words) < 3]:
        sys.exit(f"{path}: a line is an id, a package and a reason, but not: {'; '.join(short)}")
    return {words[0]: words[1] for words in lines}


def problems(packages: list[dict[str, Any]], explained: dict[str, str]) -> list[str]:
    """Return a line for each finding without an explanation, each package nobody knows, each explanation without a finding."""
    lines, used = [], set()
    for package in packages:
        if "skip_reason" in package:
            lines.append(f"{package['name']}: not audited. {package['skip_reason']}")
        for found in package.get("vulns", ()):
            ids = [found["id"], *found["aliases"]]
            if known := {name for name in ids if explained.get(name) == package["name"]}:
                used |= known
                continue
            mended = f"mended in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "mended nowhere yet"
            lines.append(f"{package['name']} {package['version']}: {', '.join(ids)}, {mended}. {found['description'][:200]}")
    return lines + [f"{explained[name]}: {name} is explained, but found no more" for name in explained if name not in used]


def main(constraints: str, reasons: str, *options: str) -> None:
    """Audit a file of pinned versions beside one of explanations."""
    explained = explanations(reasons)
    asked = ["-r", constraints, "--no-deps", "--disable-pip", "--progress-spinner", "off", "-f", "json"]
    done = subprocess.run([sys.executable, "-m", "pip_audit", *asked, *options], capture_output=True, text=True)
    try:
        packages = answered(done.returncode, done.stdout, done.stderr)
    except NotReachedError as error:
        print(f"No audit of {constraints}: the service of vulnerabilities cannot be reached: {error}")
        return
    if lines := problems(packages, explained):
        way_out = f"raise what is pinned in {constraints}, or say in {reasons} why it does not concern us"
        sys.exit("\n".join([*lines, f"{len(lines)} to mend: {way_out}"]))
    many = f"{len(packages)} package{'s' if len(packages) > 1 else ''} of {constraints}"
    print(f"{many}: no known vulnerability{' but those explained' if explained else ''}")


if __name__ == "__main__":
    main(*sys.argv[1:])
