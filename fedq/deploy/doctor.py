"""What is wrong with a deployment, by name: files, certificate, names, port, TLS, clock, versions, keys, kernels.

Flower's own messages do not tell an unregistered key from a wrong name, or a clock from a certificate.
"""

import json
import socket
import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Any, final

from fedq.deploy.layout import TIMEOUT, Deployment, Site
from fedq.deploy.nodes import public_pem
from fedq.errors import FedqError, reason
from fedq.report.health import Check

SOON = 30  # days before a certificate ends at which that is said
REACHING = ("port", "tls", "clock", "versions", "keys")  # the last three need the first two
AHEAD, BEHIND = 5.0, 305.0  # seconds that a site's clock may be ahead of the server's, or behind it


def examine(folder: Path) -> list[Check]:
    """Every check of a deployment's or a site's folder; one that cannot be made says why."""
    patient, cut = _Patient(folder), ""
    done = list[Check]()
    for name, look in patient.looks().items():
        if cut and name in REACHING:
            done.append(Check(name, False, f"not asked: see {cut}"))
            continue
        try:
            done.append(Check(name, True, look()))
        except _Wrong as wrong:
            done.append(Check(name, False, str(wrong)))
        except FedqError as error:
            done.append(Check(name, False, error.message))
        except OSError as error:
            done.append(Check(name, False, reason(error)))
        except Exception as error:
            done.append(Check(name, False, f"{type(error).__name__}: {error}"))
        if name in REACHING[:2] and not done[-1].ok:
            cut = name
    return done


class _Wrong(Exception):  # noqa: N818 - a finding
    """What a check found, and what to do."""


@final
class _Patient:
    """A folder that is examined: the server's, or one site's."""

    def __init__(self, folder: Path) -> None:
        self._of: Deployment | Site
        self._at_server = (folder / "deploy.toml").exists()
        self._of = Deployment.read(folder) if self._at_server else Site.read(folder)
        self._folder = self._of.folder

    def looks(self) -> dict[str, Callable[[], str]]:
        server = {"certificate": self.certificate, "names": self.names} if self._at_server else {}
        reach = {"port": self.port, "tls": self.tls, "clock": self.clock, "versions": self.versions}
        return {"files": self.files, **server, **reach, "keys": self.keys, "kernels": self.kernels}

    def files(self) -> str:
        """Private keys are there, readable by their owner only, and belong to their public halves."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_public_key

        private = [self._folder / "server.key"] if self._at_server else [self._folder / "key"]
        private += [f for f in (self._folder / "ca.key", *self._folder.glob("site-*/key")) if f.exists()]
        for file in private:
            if not file.exists():
                again = RENEW if file.name == "server.key" else "or make a new deployment"
                raise _Wrong(f"{file.name} is missing: take it from a copy; {again}")
            if mode := stat.S_IMODE(file.stat().st_mode) & 0o077:
                raise _Wrong(f"others may read {file} (mode {mode:03o} too much): chmod 600 {file}")
        if self._at_server:
            key = load_pem_private_key((self._folder / "server.key").read_bytes(), None)
            if key.public_key() != self._certificate.public_key():
                raise _Wrong("server.key does not belong to server.pem: make both again")
        elif self._own_key.public_key() != load_ssh_public_key((self._folder / "key.pub").read_bytes()):
            raise _Wrong("key.pub does not belong to key: take both from the folder that init made")
        return f"{len(private)} private key{'s' if len(private) > 1 else ''}, for their owner only"

    def certificate(self) -> str:
        """The server's certificate is signed by the CA, and valid today."""
        from cryptography import x509

        ca = x509.load_pem_x509_certificate((self._folder / "ca.crt").read_bytes())
        now = datetime.now(UTC)
        for what, found in (("the CA's", ca), ("the server's", self._certificate)):
            begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
            if now > ends:
                raise _Wrong(f"{what} certificate expired on {ends:%Y-%m-%d}: {RENEW}")
            if now < begins:
                raise _Wrong(f"{what} certificate begins on {begins:%Y-%m-%d %H:%M} UTC: is this clock wrong?")
        try:
            self._certificate.verify_directly_issued_by(ca)
        except Exception as error:
            raise _Wrong(f"server.pem is not signed by ca.crt: {RENEW}") from error
        left = (self._certificate.not_valid_after_utc - now).days
        return f"valid until {self._certificate.not_valid_after_utc:%Y-%m-%d}" + (
            f": {left} days are left; {RENEW}" if left < SOON else ""
        )

    def names(self) -> str:
        """The certificate is good for the name that sites use, and for the SuperLink's own processes."""
        from cryptography import x509

        found = self._certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = {*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))}
        lacking = [host for host in (self._of.host, "127.0.0.1") if _plain(host) not in names]
        if lacking:
            raise _Wrong(f"it is not for {', '.join(lacking)}, but for {', '.join(sorted(names))}: {RENEW}")
        return ", ".join(sorted(names))

    def port(self) -> str:
        """Somebody listens."""
        try:
            socket.create_connection((self._of.host, self._of.port), TIMEOUT).close()
        except OSError as error:
            hint = "start it: fedq deploy server" if self._at_server else "is the server up, and no firewall between?"
            raise _Wrong(f"nobody answers at {self._of.address} ({error}): {hint}") from error
        return f"{self._of.address} answers"

    def tls(self) -> str:
        """The server shows a certificate that the folder's CA signed, for its name, valid now."""
        try:
            return f"{self._of.handshake()}, the server's certificate is trusted"
        except ssl.SSLCertVerificationError as error:
            why = error.verify_message.rstrip(".")
            names = f"; --also {self._of.host} adds that name" if "mismatch" in why else ""
            raise _Wrong(f"the server's certificate is refused: {why}: {self._renew()}{names}") from error
        except OSError as error:
            raise _Wrong(f"no TLS handshake ({error}): does another program listen at {self._of.address}?") from error

    def clock(self) -> str:
        """The server's clock is this machine's, as node authentication signs the time."""
        away = (parsedate_to_datetime(self._asked("/health")[1]) - datetime.now(UTC)).total_seconds()
        if not -AHEAD < away < BEHIND:
            raise _Wrong(
                f"the server's clock is {away:+.0f} s from this one: node authentication fails; set both right"
            )
        return f"{abs(away):.0f} s from the server's"

    def versions(self) -> str:
        """The same Flower here and at the server."""
        there = json.loads(self._asked("/openapi.json")[0])["info"]["version"]
        if there != version("flwr"):
            raise _Wrong(f"the server has flwr {there}, and this machine {version('flwr')}: install the same")
        return f"flwr {there} here and there, fedq {version('fedq')} here"

    def keys(self) -> str:
        """The server knows the key of every site, or of this one."""
        from fedq._flower import registered

        known = registered(self._of.address, (self._folder / "ca.crt").read_bytes())
        if isinstance(self._of, Site):
            own = {self._of.name: self._folder / "key.pub"}
        else:
            own = {site: self._of.site(site) / "key.pub" for site in self._of.sites if self._of.site(site).is_dir()}
        states = {site: known.get(public_pem(file), "not registered") for site, file in own.items()}
        missing = [site for site, state in states.items() if state in ("not registered", "unregistered")]
        if missing:
            raise _Wrong(f"the server does not know the key of {', '.join(missing)}: fedq deploy register")
        return ", ".join(f"{site} {state}" for site, state in states.items())

    def kernels(self) -> str:
        """Which kernels this machine packs with."""
        from fedq.kernels import active

        return "the NumPy specification" if active.isa() == "numpy" else f"native, {active.isa()}"

    # ------------------------------------------------------------------------------------------ helpers

    def _renew(self) -> str:
        """What makes a good certificate."""
        return RENEW if self._at_server else f"on the server, {RENEW}"

    @cached_property
    def _certificate(self) -> Any:
        from cryptography import x509

        return x509.load_pem_x509_certificate((self._folder / "server.pem").read_bytes())

    @cached_property
    def _own_key(self) -> Any:
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key

        return load_ssh_private_key((self._folder / "key").read_bytes(), None)

    def _asked(self, path: str) -> tuple[str, str]:
        """What the server answers to a GET: the body, and its date."""
        import httpx

        url, trust = f"https://{self._of.address}{path}", self._of.trust()
        answer = httpx.get(url, verify=trust, timeout=TIMEOUT, trust_env=False)
        answer.raise_for_status()
        return answer.text, answer.headers["date"]


RENEW = "fedq deploy renew makes a new one"


def _plain(host: str) -> str:
    try:
        return str(ip_address(host))
    except ValueError:
        return host
