"""What `fedq deploy init` writes, and the lines that the commands become."""

import json
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from time import sleep

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedq.config import make_config
from fedq.deploy import lines, nodes
from fedq.deploy.files import init
from fedq.deploy.layout import Deployment, Site
from fedq.deploy.supervise import left
from fedq.errors import FedqError
from fedq.runs import open_run
from fedq.simulation import begin, play
from tests.processes import FEDQ

Fedq = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return init(tmp_path_factory.mktemp("made") / "deploy", "fl.example.org", 3, port=8123, also=("10.1.2.3",))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_keys_are_private(made: Deployment) -> None:
    private = [made.folder / "ca.key", made.folder / "server.key", *(made.site(s) / "key" for s in made.sites)]
    assert [mode(file) for file in private] == [0o600] * 5
    assert [mode(folder) for folder in (made.folder, made.home, made.site("site-0"))] == [0o700] * 3
    texts = {f: f.read_bytes() for f in made.folder.rglob("*") if f.is_file()}
    assert {f for f, text in texts.items() if b"PRIVATE KEY" in text} == set(private)


def test_certificate(made: Deployment) -> None:
    """Signed by the CA, for every name and loopback, valid now and for two years."""
    ca, server = (
        x509.load_pem_x509_certificate((made.folder / name).read_bytes()) for name in ("ca.crt", "server.pem")
    )
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"fl.example.org", "localhost"}
    assert {str(a) for a in names.get_values_for_type(x509.IPAddress)} == {"10.1.2.3", "127.0.0.1", "::1"}
    now = datetime.now(UTC)
    assert server.not_valid_before_utc < now < now + timedelta(days=700) < server.not_valid_after_utc
    context = ssl.create_default_context(cafile=str(made.folder / "ca.crt"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(made.folder / "server.pem", made.folder / "server.key")


def test_node_keys_are_those_that_flower_takes(made: Deployment) -> None:
    seen = set()
    for name in made.sites:
        private = load_ssh_private_key((made.site(name) / "key").read_bytes(), None)
        public = load_ssh_public_key((made.site(name) / "key.pub").read_bytes())
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert isinstance(private.curve, ec.SECP384R1)
        assert private.public_key() == public
        seen.add(private.private_numbers().private_value)
    assert len(seen) == 3


def test_site_and_deployment_are_read_back(made: Deployment) -> None:
    assert Deployment.read(made.folder) == made
    site = Site.read(made.site("site-2"))
    assert (site.name, site.partition, site.partitions, site.address) == ("site-2", 2, 3, "fl.example.org:8123")
    assert [Site.read(made.site(s)).runtime_port for s in made.sites] == [9094, 9095, 9096]
    connection = tomllib.loads((made.home / "config.toml").read_text())["superlink"]["lab"]
    assert connection == {"address": made.address, "root-certificates": str(made.folder / "ca.crt")}


def test_lines(made: Deployment) -> None:
    """The lines that Flower is started with: TLS, node authentication, a database, nothing installed at run time."""
    server = lines.superlink(made)
    for flag in ("--enable-supernode-auth", "--disable-runtime-dependency-installation", "--database"):
        assert flag in server
    assert "--insecure" not in server
    client = lines.supernode(Site.read(made.site("site-1")))
    assert client[: client.index("--root-certificates")] == ["flower-supernode", "--superlink", "fl.example.org:8123"]
    node = client[client.index("--node-config") + 1]
    assert node == f"partition-id=1 num-partitions=3 fedq-site={json.dumps(str(made.site('site-1')))}"


def test_environment_keeps_flower_at_home(made: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", "/elsewhere")
    given = lines.environment(made.home)
    assert given["FLWR_HOME"] == str(made.home)
    assert given["FLWR_TELEMETRY_ENABLED"] == "0"
    assert given["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_scripts_and_units(made: Deployment) -> None:
    import yaml

    assert mode(made.site("site-0") / "start.sh") == 0o755
    units = {f.name for f in (made.folder / "systemd").iterdir()}
    assert units == {"fedq-server.service", *(f"fedq-{s}.service" for s in made.sites)}
    services = yaml.safe_load((made.folder / "compose.yaml").read_text())["services"]
    assert set(services) == {"server", *made.sites}
    assert services["site-1"]["volumes"] == ["./site-1:/site"]


def test_the_app_is_thin_and_imports_the_installed_fedq(made: Deployment) -> None:
    """A Flower App must not hold a package named fedq: it would hide the installed one, and its native kernels."""
    files = {str(f.relative_to(made.folder / "app")) for f in (made.folder / "app").rglob("*") if f.is_file()}
    assert files == {"pyproject.toml", *(f"fedq_app/{n}.py" for n in ("__init__", "server", "client"))}
    app = tomllib.loads((made.folder / "app" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert app["components"] == {"serverapp": "fedq_app.server:app", "clientapp": "fedq_app.client:app"}


def test_keys_are_never_replaced(made: Deployment, fedq: Fedq) -> None:
    before = (made.folder / "ca.key").read_bytes()
    status, _, err = fedq("deploy", "init", "--host", "localhost", "--clients", "2", "--out", str(made.folder))
    assert status == 4
    assert "error[FQ207]" in err
    assert (made.folder / "ca.key").read_bytes() == before


@pytest.mark.parametrize("host", ["bad host", "fl.example.org:8000", "-x", "https://fl.example.org", "10.1.2.300", ""])
def test_a_host_that_is_none(host: str, fedq: Fedq, tmp_path: Path) -> None:
    status, _, err = fedq("deploy", "init", f"--host={host}", "--clients", "2")
    assert status == 2
    assert f"`{host}` is no host" in err
    assert not (tmp_path / "deploy").exists()


def test_nothing_is_half_made(fedq: Fedq, tmp_path: Path) -> None:
    """What cannot be made is told before a key is written, and by the flag at fault."""
    (tmp_path / "full" / "site-1").mkdir(parents=True)
    for flags, code, said in (
        (("--also", "bad host"), "FQ106", "--> --also bad host"),
        (("--runtime-port", "65535"), "FQ105", "2 ports from 65535 on go beyond 65535"),
        (("--out", "full"), "FQ207", "`full` holds `site-1` already"),
    ):
        status, _, err = fedq("deploy", "init", "--host", "localhost", "--clients", "2", *flags)
        assert status in (2, 4)
        assert code in err
        assert said in err
    assert not [f for f in tmp_path.rglob("*") if f.is_file()]


def test_a_certificate_that_cannot_be_renewed_stays(fedq: Fedq, tmp_path: Path) -> None:
    deploy = init(tmp_path / "deploy", "localhost", 1).folder
    before = (deploy / "server.pem").read_bytes()
    status, _, err = fedq("deploy", "renew", "--also", "höst")
    assert status == 2
    assert "--> --also höst" in err
    (deploy / "ca.key").write_text("not a key")
    status, _, err = fedq("deploy", "renew")
    assert status == 4
    assert "the CA's key cannot be read" in err
    assert (deploy / "server.pem").read_bytes() == before


def test_a_run_goes_on_where_its_clients_are(made: Deployment, fedq: Fedq, tmp_path: Path) -> None:
    """Not in simulation when it was deployed, and not at sites for which it is not."""
    run, _ = begin(make_config(clients=4, rounds=1), tmp_path)
    run.update(deployed=True)
    run.release()
    status, _, err = fedq("deploy", "run", str(run.path), "--dir", str(made.folder))
    assert status == 3
    assert "4 clients, but the deployment has 3 sites" in err
    assert "run.toml:3  clients = 4" in err
    status, _, err = fedq("resume", str(run.path))
    assert status == 4
    assert "error[FQ205]: the run was deployed" in err
    assert f"hint: fedq deploy run {run.path}" in err


@pytest.mark.parametrize("strategy", ["fedvote", "feddyn"])
def test_what_simulated_clients_remember_is_not_dropped(fedq: Fedq, tmp_path: Path, strategy: str) -> None:
    """A run of clients that remember something is refused before it is touched; another is submitted."""
    init(tmp_path / "deploy", "localhost", 2, port=1)
    run, simulation = begin(make_config({"client.local_steps": 1}, clients=2, rounds=3, strategy=strategy), tmp_path)
    rounds = play(run, simulation)
    next(rounds)
    rounds.close()  # type: ignore[attr-defined]
    before = run.about
    status, _, err = fedq("deploy", "run", str(run.path), "--patience", "0")
    if strategy == "fedvote":
        assert (status, "error[FQ208]" in err) == (4, True)
    else:
        assert (status, run.about) == (4, before)
        assert "error[FQ205]: the run was simulated: what its clients remember is in its checkpoint" in err
        assert f"fedq resume {run.path}; or begin it anew: fedq deploy run {run.path / 'run.toml'}" in err


def test_a_server_that_is_away(fedq: Fedq, tmp_path: Path) -> None:
    """How to go on is said. The folder may have been moved: Flower trusts the CA where it is now."""
    init(tmp_path / "deploy", "localhost", 1, port=1).folder.rename(tmp_path / "moved")
    (tmp_path / "c.toml").write_text("rounds = 1\n")
    status, _, err = fedq("deploy", "run", "c.toml", "--dir", "moved", "--patience", "0")
    assert status == 4
    assert "error[FQ208]: the server does not answer: connection refused" in err
    (run,) = tmp_path.glob("runs/*")
    assert f"; then: fedq deploy run runs/{run.name} --dir {tmp_path / 'moved'}" in err
    assert open_run(run).status == "failed"
    assert f'"{tmp_path / "moved" / "ca.crt"}"' in (tmp_path / "moved" / ".flwr" / "config.toml").read_text()


def test_who_waits_for_the_server_can_leave(tmp_path: Path) -> None:
    """SIGTERM as Ctrl-C: the status of an interrupt, and how to go on."""
    init(tmp_path / "deploy", "localhost", 1, port=1)
    (tmp_path / "c.toml").write_text("rounds = 1\n")
    pipe = subprocess.PIPE
    with subprocess.Popen([*FEDQ, "deploy", "run", "c.toml"], cwd=tmp_path, stderr=pipe, text=True) as process:
        assert process.stderr
        assert any(line.startswith("waiting for the server") for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        err = process.communicate(timeout=60)[1]
    (run,) = tmp_path.glob("runs/*")
    assert (process.returncode, open_run(run).status) == (130, "interrupted")
    assert f"go on: fedq deploy run runs/{run.name} --dir {tmp_path / 'deploy'}" in err


def test_who_leaves_writes_over_nothing(made: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's process writes as long as it holds the lock: what it enters last stays."""
    run, _ = begin(make_config(clients=3, rounds=1), tmp_path)

    def end() -> None:
        sleep(0.3)
        run.update(status="done", totals={"rounds": 1})
        run.release()

    thread = Thread(target=end)
    thread.start()
    assert "the rounds before are saved" in left(made, run.path)
    thread.join()
    assert (run.about["status"], run.about["totals"]) == ("done", {"rounds": 1})
    held = open_run(run.path, lock=True)
    monkeypatch.setattr("fedq.deploy.supervise.LOOK", 0.1)
    assert "plays on" in left(made, run.path)
    held.release()
    with pytest.raises(AssertionError, match="without its lock"):
        held.update(status="interrupted")


NODE = """
import signal, subprocess, sys, time

def started():
    subprocess.Popen(["sh", "-c", f"sleep 300; : {sys.argv[2]}"])

def leave(*_):
    started()
    time.sleep(0.5)
    sys.exit()

signal.signal(signal.SIGTERM, leave)
started()
print("ready", flush=True)
time.sleep(300)
"""


def test_what_a_client_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what begins while it ends."""
    monkeypatch.setattr(nodes, "ORPHANED", 0.5)
    words = [sys.executable, "-c", NODE, "flower-supernode", f"{tmp_path}/site"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == b"ready\n"
        (tmp_path / "client.pid").write_text(str(node.pid))
        assert list(nodes.stop_all(tmp_path)) == [f"stopped client {node.pid} of {tmp_path}"]
        assert node.wait(5) == 0
    for process in psutil.process_iter(["cmdline"]):
        assert f"{tmp_path}/site" not in " ".join(process.info["cmdline"] or ())


def test_a_port_that_is_taken(fedq: Fedq, tmp_path: Path) -> None:
    """It is told before Flower starts, and nothing is marked as started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        init(tmp_path / "deploy", "localhost", 1, port=taken.getsockname()[1])
        status, _, err = fedq("deploy", "server", "--bind", "127.0.0.1")
        assert status == 4
        assert "nobody can listen at 127.0.0.1" in err
        assert "choose another: fedq deploy init --port" in err
        site = Site.read(tmp_path / "deploy" / "site-0")
        replace(site, runtime_port=site.port).write()
        status, _, err = fedq("deploy", "client", "--dir", "deploy/site-0")
        assert status == 4
        assert f"change runtime_port in {site.folder / 'site.toml'}" in err
    status, _, err = fedq("deploy", "server", "--bind", "nowhere.invalid")
    assert (status, "0.0.0.0 stands for all addresses" in err) == (4, True)
    assert not [*tmp_path.rglob("*.pid")]


def test_a_ca_that_cannot_be_read(fedq: Fedq, tmp_path: Path) -> None:
    """It is told before Flower is asked, at the server and at a site."""
    init(tmp_path / "deploy", "localhost", 1, port=1)
    for words, folder in ((("status",), "deploy"), (("client",), "deploy/site-0")):
        (tmp_path / folder / "ca.crt").write_text("not a certificate")
        status, _, err = fedq("deploy", *words, "--dir", folder)
        assert (status, "error[FQ207]: the CA's certificate cannot be read: it holds no" in err) == (4, True)
        (tmp_path / folder / "ca.crt").unlink()
        status, _, err = fedq("deploy", *words, "--dir", folder)
        assert (status, "cannot be read: no such file or directory" in err) == (4, True)


def test_nothing_in_the_home(fedq: Fedq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    status, out, _ = fedq("deploy", "init", "--host", "localhost", "--clients", "2")
    assert status == 0
    assert "fedq deploy server --dir deploy" in out
    assert not list((tmp_path / "home").iterdir())


@pytest.mark.parametrize(
    "words", [["server"], ["register"], ["status"], ["stop"], ["run", "x.toml"], ["client", "--dir", "s"]]
)
def test_a_folder_that_is_none(fedq: Fedq, words: list[str]) -> None:
    status, _, err = fedq("deploy", *words)
    assert status == 4
    assert "error[FQ207]" in err
    assert "hint:" in err
    assert "Traceback" not in err


def test_a_damaged_file(made: Deployment, tmp_path: Path) -> None:
    (tmp_path / "deploy.toml").write_text("host = 'x'\nport = 1\nsites = []\nextra = 2\n")
    with pytest.raises(FedqError, match="unknown keys"):
        Deployment.read(tmp_path)
    (tmp_path / "deploy.toml").write_text("host = ")
    with pytest.raises(FedqError, match="cannot be read"):
        Deployment.read(tmp_path)


def test_clients_must_be_as_many_as_sites(made: Deployment, fedq: Fedq, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("clients = 7\n")
    status, _, err = fedq("deploy", "run", "c.toml", "--dir", str(made.folder))
    assert status == 3
    assert "7 clients, but the deployment has 3 sites" in err


def test_attacks_that_see_everything_cannot_be_deployed(made: Deployment, fedq: Fedq, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('attack = "inverse:1"\n')
    status, _, err = fedq("deploy", "run", "c.toml", "--dir", str(made.folder))
    assert status == 2
    assert "exists in simulation only" in err


@pytest.mark.parametrize("sets", ["client.local_epochs=1", "strategy=fedavg", "model=lenet5"])
def test_settings_over_a_finished_runs_file(sets: str, made: Deployment, tmp_path: Path) -> None:
    """They take what they replace with them, as in `fedq simulate`."""
    from fedq.cli.deployed import _config

    file = tmp_path / "run.toml"
    file.write_text(make_config({"clients": 3, "strategy": "fedvote", "strategy.clip": 0.9, "model": "mlp"}).to_toml())
    config = _config(made, file, [sets])
    key, value = sets.split("=")
    assert {"client.local_epochs": config.client.options.local_epochs, "strategy": config.strategy.name,
            "model": config.model.name}[key] == (1 if value == "1" else value)  # fmt: skip
