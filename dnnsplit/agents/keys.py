"""Key pairs for hosts: a small authority of one's own, and certificates that carry the names of the hosts it vouches for."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dnnsplit.agents.names import name_problem
from dnnsplit.deployment.hosts import host_problem
from dnnsplit.deployment.wire.channels import ANY
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DeployError, OptionError, raise_problems
from dnnsplit.ground.outputs import check_output
from dnnsplit.ground.paths import exists

AUTHORITY = "authority"  # folder of the one key that must not leave this machine
CERT, KEY, CA = "cert.pem", "key.pem", "ca.pem"
DAYS = 825  # how long a certificate is valid; the authority is for ten years


def make_keys(
    hosts: Mapping[str, Sequence[str]] | Sequence[str], folder: str | Path = "keys", days: int = DAYS
) -> dict[str, Path]:
    """Make a key pair for each host, signed by the authority of a folder, which is made with the first of them.

    Bring each host its own folder, and it alone; the folder ``authority`` stays where it is. Whoever has a key pair of this
    authority may call the agents and stages of its hosts.

    Parameters
    ----------
    hosts : Mapping[str, Sequence[str]] | Sequence[str]
        Names, as agents have them; where clients of other makers are to check whom they call, name -> addresses.
    folder : str | Path, default "keys"
        Where the authority is, or will be.
    days : int, default 825
        How long the certificates are valid [days].

    Returns
    -------
    dict[str, Path]
        Host -> folder with ``cert.pem``, ``key.pem`` and ``ca.pem``.

    Raises
    ------
    OptionError
        Names that cannot be used, hosts that have keys already; all of them at once.
    DeployError
        The authority of the folder is damaged.
    OutputError
        The folder cannot be written.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> folders = ds.make_keys({"device": ["127.0.0.1"], "edge": ["edge.example"]}, "keys")
    >>> sorted(folders)
    ['device', 'edge']
    """
    check_arguments(make_keys, locals(), least={"days": 1}, most={"days": 36500})
    addresses = {name: tuple(hosts[name]) if isinstance(hosts, Mapping) else () for name in hosts}
    folder = Path(folder)
    problems = [problem for name in addresses if (problem := name_problem(name))]
    problems += [
        f"{AUTHORITY!r} is the folder of the authority; name the host differently" for name in addresses if name == AUTHORITY
    ]
    for name in addresses:
        if not name_problem(name) and name != AUTHORITY and exists(folder / name):
            problems.append(f"{name!r} has keys already; remove {folder / name} to make it new ones")
    problems += [f"{name!r}: {wrong}" for name, there in addresses.items() for one in there if (wrong := host_problem(one))]
    if not addresses:
        problems.append("name at least one host")
    if days < 1:
        problems.append(f"days is {days!r}; give 1 or more")
    raise_problems(OptionError, "keys", problems)
    check_output(folder, folder=True)
    key, authority = _authority(folder / AUTHORITY)
    return {name: _pair(folder / name, name, there, days, key, authority) for name, there in addresses.items()}


def _authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Read the authority of a folder, or make it."""
    if exists(folder):
        try:
            key = serialization.load_pem_private_key((folder / KEY).read_bytes(), None)
            found = x509.load_pem_x509_certificate((folder / CA).read_bytes())
        except (OSError, ValueError, TypeError) as error:
            message = f"the authority in {folder} cannot be read: {error}; choose another folder, and make all keys anew"
            raise DeployError(message) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != found.public_key():
            message = f"the key and the certificate of the authority in {folder} do not go together; make all keys anew"
            raise DeployError(message)
        return key, found
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dnnsplit authority")])
    use = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    found = (
        _started(name, name, key.public_key(), 3650)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(use, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(folder, {KEY: _pem(key), CA: found.public_bytes(serialization.Encoding.PEM)})
    return key, found


def _pair(
    folder: Path, name: str, addresses: Iterable[str], days: int, signer: ec.EllipticCurvePrivateKey, authority: x509.Certificate
) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    # a client of this very host calls it by these
    alternatives = [
        x509.DNSName(name),
        x509.DNSName(ANY),
        *(_general(address) for address in ("localhost", "127.0.0.1", *addresses)),
    ]
    use = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    both = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    cert = (
        _started(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), authority.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(use, critical=True)
        .add_extension(both, critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(identifier, critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return _write(folder, {KEY: _pem(key), CERT: cert.public_bytes(pem), CA: authority.public_bytes(pem)})


def _started(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer, subject, key, x509.random_serial_number(), now - timedelta(hours=1), now + timedelta(days=days)
    )


def _general(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address.strip("[]")))
    except ValueError:
        return x509.DNSName(address)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files into a new folder that its owner alone may read."""
    folder.mkdir(mode=0o700, parents=True)
    for name, content in files.items():
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    return folder
