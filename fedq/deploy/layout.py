"""The folder of a deployment, at the server and at each site, and what its two small files say.

deploy/                 at the server
deploy.toml           host, port, sites in the order of their partitions
ca.key                signs server certificates: keep it offline
ca.crt server.pem server.key
.flwr/config.toml     Flower's own home: the connection `lab`
app/                  the Flower App that `flwr run` sends
compose.yaml systemd/ start.sh
site-0/               give each site its folder, by a safe channel
site.toml           name, partition, the server's address, where the data are
key key.pub ca.crt start.sh
"""

import socket
import ssl
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from fedq.errors import FedqError, reason

CONNECTION = "lab"  # the name of the SuperLink in Flower's own configuration
TIMEOUT = 10.0  # seconds to wait for the server


@dataclass(frozen=True)
class _Place:
    """A folder of one half of a deployment, and where its server is reached."""

    folder: Path
    host: str
    port: int

    @property
    def address(self) -> str:
        """host:port of the server."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def home(self) -> Path:
        """Flower's own home."""
        return self.folder / ".flwr"

    def trust(self) -> ssl.SSLContext:
        """Trust in the deployment's own CA only. FedqError FQ207 if its certificate cannot be read."""
        file = self.folder / "ca.crt"
        try:
            return ssl.create_default_context(cafile=str(file))
        except OSError as error:
            why = "it holds no certificate" if isinstance(error, ssl.SSLError) else reason(error)
            said = f"the CA's certificate cannot be read: {why}"
            hint = "take ca.crt from the server's folder, or from a copy"
            raise FedqError("FQ207", said, where=str(file), hint=hint) from error

    def handshake(self) -> str:
        """The TLS that the server speaks. SSLCertVerificationError if its certificate is refused, OSError if none."""
        with (
            socket.create_connection((self.host, self.port), TIMEOUT) as plain,
            self.trust().wrap_socket(plain, server_hostname=self.host) as secure,
        ):
            return str(secure.version())


@final
@dataclass(frozen=True)
class Deployment(_Place):
    """deploy.toml, and the folder it stands in."""

    sites: tuple[str, ...]

    @classmethod
    def read(cls, folder: str | Path) -> "Deployment":
        """The deployment in a folder. FedqError FQ207 if there is none."""
        found = _read(Path(folder) / "deploy.toml", "a deployment", "fedq deploy init --host HOST --clients N")
        made: Deployment = _made(cls, folder, {**found, "sites": tuple(found.get("sites", ()))})
        return made

    def write(self) -> None:
        """Write deploy.toml."""
        _write(self.folder / "deploy.toml", asdict(self))

    def site(self, name: str) -> Path:
        """A site's folder, as `init` made it."""
        return self.folder / name


@final
@dataclass(frozen=True)
class Site(_Place):
    """site.toml, and the folder it stands in."""

    name: str
    partition: int
    partitions: int
    runtime_port: int
    data_dir: str = ""

    @classmethod
    def read(cls, folder: str | Path) -> "Site":
        """The site in a folder. FedqError FQ207 if there is none."""
        hint = "give the folder that `fedq deploy init` made for the site: --dir site-0"
        made: Site = _made(cls, folder, _read(Path(folder) / "site.toml", "a site", hint))
        return made

    def write(self) -> None:
        """Write site.toml."""
        _write(self.folder / "site.toml", asdict(self))


def _read(file: Path, what: str, hint: str) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FedqError(
            "FQ207", f"`{file.parent}` is not {what}: it has no {file.name}", where=str(file.parent), hint=hint
        ) from None
    except (OSError, ValueError) as error:
        raise FedqError("FQ207", f"{file.name} cannot be read: {error}", where=str(file), hint=hint) from error


def _made(kind: type[Any], folder: str | Path, values: dict[str, Any]) -> Any:
    try:
        return kind(folder=Path(folder).resolve(), **values)
    except TypeError as error:
        name = "deploy.toml" if kind is Deployment else "site.toml"
        raise FedqError(
            "FQ207", f"{name} has missing or unknown keys: {error}", where=str(folder), hint="fedq deploy init"
        ) from error


def _write(file: Path, values: dict[str, Any]) -> None:
    import tomli_w

    del values["folder"]
    file.write_text(tomli_w.dumps(values), encoding="utf-8")
