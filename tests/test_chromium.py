"""CI installs Chromium where it may, and says in a line where it may not."""

import os
import shutil
import subprocess

import pytest
from helpers.paths import ROOT

HANGS = "case $* in *update*) exit 124;; esac; exit 100"  # as `timeout` ends it


@pytest.mark.parametrize(
    ("apt_get", "told"),
    [
        (None, "there is no apt-get"),
        ("echo E: Unable to locate package chromium; exit 100", "fetches none (E: Unable to locate package chromium)"),
        ("case $* in update) echo W: Failed to fetch lists;; *) exit 100;; esac", "fetches none (W: Failed to fetch lists)"),
        (HANGS, "fetches none (no answer in time)"),
        ("case $* in *download-only) ;; *) echo E: It is locked; exit 100;; esac", "does not install it (E: It is locked)"),
        ("", ""),
    ],
)
def test_chromium_is_installed_or_told_and_never_an_error(tmp_path, apt_get, told):
    for name in ("bash", "grep", "mktemp", "rm", "timeout"):
        (tmp_path / name).symlink_to(shutil.which(name))
    if apt_get is not None:
        script = tmp_path / "apt-get"
        script.write_text(f"#!{shutil.which('bash')}\nshift; while [[ $1 == -o ]]; do shift 2; done\n{apt_get}\n")
        script.chmod(0o755)
    command = [tmp_path / "bash", ROOT / ".ci" / "chromium"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, check=True, capture_output=True, text=True)
    assert not done.stderr
    if os.geteuid():
        told = "only root installs packages"
    assert told in done.stdout if told else not done.stdout, done.stdout
    assert done.stdout.count("\n") == bool(told)
