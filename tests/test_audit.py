"""The audit of what is pinned: findings fail, explained ones do not, and no answer is no failure. The service is one of ours."""

import json
import os
import runpy
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers.paths import ROOT
from helpers.standalone import free_ports

AUDIT = ROOT / ".ci" / "audit.py"
FOUND = {
    "id": "GHSA-h5c8-rqwp-cp95", "aliases": ["CVE-2024-22195"], "summary": "Attributes are injected",
    "affected": [{
        "package": {"name": "jinja2", "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.1.3"}]}],
    }],
}  # fmt: skip


class Service(BaseHTTPRequestHandler):
    """Knows of one vulnerability, in the form of OSV; of a package called broken it cannot tell."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = asked["package"]["name"]
        text = json.dumps({"vulns": [FOUND]} if (name, asked["version"]) == ("jinja2", "3.1.2") else {}).encode()
        self.send_response(500 if name == "broken" else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def service():
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def audit(tmp_path):
    """A function that audits pins beside explanations; returns the exit status and all that was said."""

    def run(service, pins, explained="# none\n"):
        (tmp_path / "pins.txt").write_text(pins)
        (tmp_path / "explained.txt").write_text(explained)
        command = [sys.executable, AUDIT, "pins.txt", "explained.txt", "-s", "osv", "--osv-url", service]
        environment = os.environ | {"NO_PROXY": "127.0.0.1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    return run


def test_nothing_that_is_known_passes(audit, service):
    assert audit(service, "jinja2==3.1.6\nsix==1.17.0\n") == (0, "2 packages of pins.txt: no known vulnerability\n")


def test_a_finding_fails_and_says_the_way_out(audit, service):
    code, said = audit(service, "six==1.17.0\njinja2==3.1.2\n")
    assert code == 1
    assert said.startswith(
        "jinja2 3.1.2: CVE-2024-22195, GHSA-h5c8-rqwp-cp95, mended in 3.1.3. Attributes are injected\n1 to mend: raise "
    )


@pytest.mark.parametrize("name", ["GHSA-h5c8-rqwp-cp95", "CVE-2024-22195"])
def test_an_explained_finding_passes(audit, service, name):
    explained = f"# why\n{name} jinja2 templates are ours alone\n"
    assert audit(service, "jinja2==3.1.2\n", explained) == (
        0,
        "1 package of pins.txt: no known vulnerability but those explained\n",
    )


def test_an_explanation_is_of_one_package_and_goes_with_its_finding(audit, service):
    code, said = audit(service, "jinja2==3.1.2\n", "CVE-2024-22195 markupsafe no templates\n")
    assert code == 1
    assert "jinja2 3.1.2: CVE-2024-22195, GHSA" in said
    assert "markupsafe: CVE-2024-22195 is explained, but found no more\n2 to mend" in said


def test_an_explanation_without_a_reason_is_none(audit, service):
    code, said = audit(service, "jinja2==3.1.2\n", "CVE-2024-22195 jinja2\n")
    assert (code, said) == (1, "explained.txt: a line is an id, a package and a reason, but not: CVE-2024-22195 jinja2\n")


def test_no_answer_is_told_in_a_line_and_no_failure(audit):
    code, said = audit(f"http://127.0.0.1:{free_ports(1)[0]}", "jinja2==3.1.2\n")
    assert code == 0
    assert said.startswith(
        "No audit of pins.txt: the service of vulnerabilities cannot be reached: requests.exceptions.ConnectionError: "
    )
    assert said.count("\n") == 1


def test_a_failure_of_the_service_or_of_ours_is_one(audit, service):
    code, said = audit(service, "broken==1.0\n")
    assert code == 1
    assert "ServiceError" in said
    assert said.endswith("pip-audit gave no answer (exit status 1)\n")
    code, said = audit(service, "six>=1\n")
    assert code == 1
    assert "not pinned" in said


def test_a_mirror_that_knows_no_package_is_no_service_but_one_unknown_package_is_a_problem():
    module = runpy.run_path(str(AUDIT))
    unknown = {"name": "six", "skip_reason": "Dependency not found on PyPI and could not be audited: six (1.17.0)"}
    known = {"name": "jinja2", "version": "3.1.6", "vulns": []}

    def answered(*packages):
        return module["answered"](0, json.dumps({"dependencies": packages, "fixes": []}), "No known vulnerabilities found\n")

    with pytest.raises(module["NotReachedError"], match=r"it knows none of the 2 packages\. Dependency not found"):
        answered(unknown, unknown)
    assert module["problems"](answered(unknown, known), {}) == [f"six: not audited. {unknown['skip_reason']}"]
