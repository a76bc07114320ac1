"""Certificates and node keys of a deployment: an own CA, one server certificate, one key pair a site.

All keys are elliptic-curve P-384, node keys in OpenSSH format as Flower wants them; private ones are readable by their
owner only from the moment they exist.
"""

import os
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK = ("localhost", "127.0.0.1", "::1")  # the SuperLink's own processes reach it there
CA_DAYS, SERVER_DAYS = 3650, 825
EARLIER = timedelta(hours=1)  # for clocks that are a little behind


def write_private(path: Path, content: bytes) -> None:
    """A new file that nobody else may read. FileExistsError if there is one."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def make_ca(folder: Path, name: str) -> None:
    """`ca.key` and `ca.crt`: the authority that signs the server's certificate, and nothing else."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedq deployment CA of {name}"[:64])])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # signs certificates and lists
    made = (
        _certificate(subject, subject, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    write_private(folder / "ca.key", _pem(key))
    (folder / "ca.crt").write_bytes(made.public_bytes(Encoding.PEM))


def make_server(folder: Path, hosts: list[str], *, days: int = SERVER_DAYS) -> None:
    """`server.key` and `server.pem`, signed by the folder's CA, for all `hosts` (names or addresses) and loopback.

    Those that are there are kept as `server.*.old`, once the new ones are made.
    """
    ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    ca_key = _load_key(folder / "ca.key")
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    names = [_general_name(host) for host in dict.fromkeys([*hosts, *LOOPBACK])]
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)  # signs handshakes
    made = (
        _certificate(subject, ca.subject, key.public_key(), days)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    for old in (folder / "server.key", folder / "server.pem"):
        if old.exists():
            old.replace(old.with_name(f"{old.name}.old"))
    write_private(folder / "server.key", _pem(key))
    (folder / "server.pem").write_bytes(made.public_bytes(Encoding.PEM))


def make_node(folder: Path, comment: str) -> None:
    """`key` and `key.pub` of a site, in OpenSSH format."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(folder / "key", key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    (folder / "key.pub").write_bytes(public + f" {comment}\n".encode())


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + timedelta(days=days))
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "fedq makes no others"
    return key
