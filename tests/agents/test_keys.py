"""Key pairs: who is let in, and what certificates say."""

import stat
from contextlib import closing, contextmanager

import pytest
from cryptography import x509

from dnnsplit.agents.keys import make_keys
from dnnsplit.agents.wire import Remote, UnreachableError, serve_agent, tls_of
from dnnsplit.ground.errors import DeployError, OptionError


@contextmanager
def answering(folder, host="127.0.0.1"):
    """An agent's service that tells who called; its address."""
    server, port = serve_agent({"who": lambda who, given: who}, None, None, host, 0, tls_of(folder))
    try:
        yield f"{host}:{port}"
    finally:
        server.stop(0)


def ask(address, name, folder):
    with closing(Remote(address, name, tls_of(folder))) as remote:
        return remote.ask("who", 5.0)


def test_hosts_of_one_authority_know_each_other_by_their_names(tmp_path):
    keys = make_keys(["device", "edge"], tmp_path)
    with answering(keys["edge"]) as address:
        assert ask(address, "edge", keys["device"]) == "device"
        assert ask(address, "", keys["device"]) == "device"  # by the address, on the same machine


def test_a_host_is_known_wherever_it_is(tmp_path):
    """Its keys were made before anybody knew where it would be, and who joins does not know its name."""
    keys = make_keys(["device", "edge"], tmp_path)
    with answering(keys["edge"], "127.0.0.2") as address:
        assert ask(address, "edge", keys["device"]) == "device"
        assert ask(address, "", keys["device"]) == "device"


def test_nobody_else_is_let_in(tmp_path):
    keys, others = make_keys(["device", "edge"], tmp_path / "ours"), make_keys(["device"], tmp_path / "theirs")
    with answering(keys["edge"]) as address:
        for folder in (others["device"], ""):
            with pytest.raises(UnreachableError):
                ask(address, "edge", folder)
        with pytest.raises(UnreachableError):  # it is not whom we wanted
            ask(address, "cloud", keys["device"])


def test_a_host_that_comes_later_has_the_same_authority(tmp_path):
    first = make_keys(["device"], tmp_path)
    later = make_keys({"edge": ["192.168.0.7", "edge.lan", "fd00::7"]}, tmp_path)
    assert (first["device"] / "ca.pem").read_bytes() == (later["edge"] / "ca.pem").read_bytes()
    with answering(later["edge"]) as address:
        assert ask(address, "edge", first["device"]) == "device"
    cert = x509.load_pem_x509_certificate((later["edge"] / "cert.pem").read_bytes())
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["edge", "any.dnnsplit", "localhost", "edge.lan"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "192.168.0.7", "fd00::7"]
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_private_keys_are_their_owners_alone(tmp_path):
    for folder in [*make_keys(["device"], tmp_path).values(), tmp_path / "authority"]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600


def test_all_that_is_wrong_is_told_at_once_and_nothing_is_written_over(tmp_path):
    keys = make_keys(["device"], tmp_path)
    before = (keys["device"] / "cert.pem").read_bytes()
    with pytest.raises(OptionError, match="3 problems") as told:
        make_keys(["device", "../edge", "authority"], tmp_path)
    for part in ("'device' has keys already", "the name '../edge' cannot be used", "'authority' is the folder of the authority"):
        assert part in str(told.value)
    assert (keys["device"] / "cert.pem").read_bytes() == before
    with pytest.raises(OptionError, match="name at least one host"):
        make_keys([], tmp_path)


def test_a_damaged_authority_is_refused(tmp_path):
    make_keys(["device"], tmp_path)
    (tmp_path / "authority" / "key.pem").write_text("nothing")
    with pytest.raises(DeployError, match=r"the authority in .* cannot be read"):
        make_keys(["edge"], tmp_path)
