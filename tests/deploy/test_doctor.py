"""`fedq doctor --deploy` names what is wrong: without a server, and with one that shows its certificate."""

import json
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedq.deploy import keys
from fedq.deploy.doctor import examine
from fedq.deploy.files import init, renew
from fedq.deploy.layout import Deployment, Site
from fedq.deploy.lines import unheard
from fedq.deploy.nodes import free_to_start
from fedq.errors import FedqError
from tests.deploy.processes import free_ports

Fedq = Callable[..., tuple[int, str, str]]


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return init(tmp_path / "deploy", "localhost", 2, port=free_ports(1))


@pytest.fixture
def handshakes(deployment: Deployment) -> Iterator[Callable[[], None]]:
    """A server that shakes hands with the deployment's certificate, as it is when this is called."""
    with socket.create_server(("127.0.0.1", deployment.port)) as listening:
        listening.settimeout(0.1)
        stop, thread = threading.Event(), threading.Thread()

        def serve(context: ssl.SSLContext) -> None:
            while not stop.is_set():
                try:
                    with listening.accept()[0] as taken, context.wrap_socket(taken, server_side=True):
                        pass
                except OSError:
                    continue

        def begin() -> None:
            nonlocal thread
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(deployment.folder / "server.pem", deployment.folder / "server.key")
            thread = threading.Thread(target=serve, args=(context,))
            thread.start()

        yield begin
        stop.set()
        thread.join()


def found(folder: Path) -> dict[str, tuple[bool, str]]:
    return {check.name: (check.ok, check.said) for check in examine(folder)}


def test_before_the_server_is_up(deployment: Deployment) -> None:
    checks = found(deployment.folder)
    assert list(checks) == ["files", "certificate", "names", "port", "tls", "clock", "versions", "keys", "kernels"]
    assert [name for name, (ok, _) in checks.items() if ok] == ["files", "certificate", "names", "kernels"]
    assert "fedq deploy server" in checks["port"][1]
    site = found(deployment.site("site-1"))
    assert list(site) == ["files", "port", "tls", "clock", "versions", "keys", "kernels"]


def test_open_keys(deployment: Deployment) -> None:
    key = deployment.site("site-0") / "key"
    key.chmod(0o640)
    ok, said = found(deployment.folder)["files"]
    assert not ok
    assert f"chmod 600 {key}" in said


def test_keys_that_do_not_belong_together(deployment: Deployment) -> None:
    shutil.copy(deployment.site("site-0") / "key.pub", deployment.site("site-1") / "key.pub")
    assert found(deployment.site("site-1"))["files"] == (
        False,
        "key.pub does not belong to key: take both from the folder that init made",
    )


def remake(deployment: Deployment, hosts: list[str], days: int) -> None:
    keys.make_server(deployment.folder, hosts, days=days)


def test_an_expired_certificate(
    deployment: Deployment, handshakes: Callable[[], None], monkeypatch: pytest.MonkeyPatch, fedq: Fedq
) -> None:
    from datetime import timedelta

    monkeypatch.setattr(keys, "EARLIER", timedelta(days=3))
    remake(deployment, ["localhost"], -1)
    handshakes()
    ok, said = found(deployment.folder)["certificate"]
    assert not ok
    assert "expired on" in said
    assert "fedq deploy renew" in said
    for folder in (deployment.folder, deployment.site("site-0")):
        checks = found(folder)
        assert not checks["tls"][0]
        assert "certificate has expired" in checks["tls"][1]
        assert checks["keys"] == (False, "not asked: see tls")
    with pytest.raises(FedqError, match="the server's certificate is refused: certificate has expired"):
        free_to_start(Site.read(deployment.site("site-0")), print)
    (deployment.folder / "c.toml").write_text("rounds = 1\n")
    status, _, err = fedq("deploy", "run", str(deployment.folder / "c.toml"), "--dir", str(deployment.folder))
    assert (status, "waiting" in err) == (4, False)  # patience would not make it valid
    assert "error[FQ207]: the server's certificate is refused: certificate has expired" in err


def test_a_certificate_for_another_name(deployment: Deployment) -> None:
    text = (deployment.folder / "deploy.toml").read_text()
    (deployment.folder / "deploy.toml").write_text(text.replace('"localhost"', '"localhost.localdomain"'))
    ok, said = found(deployment.folder)["names"]
    assert not ok
    assert said.startswith("it is not for localhost.localdomain")


def test_a_certificate_of_another_ca(deployment: Deployment, handshakes: Callable[[], None], tmp_path: Path) -> None:
    other = init(tmp_path / "other", "localhost", 1)
    shutil.copy(other.folder / "ca.crt", deployment.site("site-0") / "ca.crt")
    handshakes()
    assert found(deployment.folder)["tls"][0]
    ok, said = found(deployment.site("site-0"))["tls"]
    assert not ok
    assert "the server's certificate is refused" in said


def test_something_else_listens(deployment: Deployment) -> None:
    with socket.create_server(("127.0.0.1", deployment.port)) as listening:

        def talk() -> None:
            for _ in range(3):
                with listening.accept()[0] as taken:
                    taken.sendall(b"220 mail\r\n")

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        checks = found(deployment.site("site-0"))
        said = unheard(deployment, "here")
    assert checks["port"][0]
    assert not checks["tls"][0]
    assert (said.code, said.message) == ("FQ207", f"what listens at localhost:{deployment.port} does not speak TLS")
    assert unheard(deployment, "here").message == "the server does not answer: connection refused"


def test_renew(deployment: Deployment) -> None:
    before = (deployment.folder / "server.pem").read_bytes()
    renew(deployment, ("10.0.0.7",))
    assert (deployment.folder / "server.pem.old").read_bytes() == before
    checks = found(deployment.folder)
    assert checks["files"][0]
    assert checks["certificate"][0]
    assert "10.0.0.7" in checks["names"][1]


def test_command(deployment: Deployment, fedq: Fedq) -> None:
    status, out, _ = fedq("doctor", "--deploy", str(deployment.folder))
    assert status == 4
    assert "FAIL  port" in out
    status, out, _ = fedq("doctor", "--deploy", str(deployment.folder), "--json")
    assert {check["name"] for check in json.loads(out)["checks"]} >= {"certificate", "tls", "keys"}
    status, _, err = fedq("doctor", "--deploy", "nowhere")
    assert status == 4
    assert "error[FQ207]" in err
