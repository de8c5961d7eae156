"""TLS: a server as a process with a certificate of its own, asked by clients that verify it."""

from __future__ import annotations

import asyncio
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from support import fake_chat_model
from support.fake_chat_model import wait_until

from ptune.cli import main
from ptune.errors import UsageError
from ptune_serve.http.tls import Certificate
from ptune_serve.ui.answer import ServerError
from ptune_serve.ui.client import Client
from ptune_serve.ui.process import TRUSTED_VARIABLE, trusted_servers


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write(authority: trustme.CA, path: Path, name: str = "127.0.0.1") -> None:
    """A new certificate of this name with its key, as one PEM file."""
    issued = authority.issue_cert(name)
    path.write_bytes(issued.private_key_and_cert_chain_pem.bytes())


@pytest.fixture
def served(authority: trustme.CA, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    write(authority, tmp_path / "server.pem")
    ready = tmp_path / "ready"
    command = fake_chat_model.command("--ready-file", str(ready))
    process = subprocess.Popen(
        [*command, "--ssl-certfile", str(tmp_path / "server.pem")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: ready.exists() or process.poll() is not None)
    yield ready.read_text().strip(), process
    process.kill()
    process.communicate()


def shown_by(url: str, authority: trustme.CA) -> bytes:
    """The certificate that a server shows to somebody who trusts the authority."""
    verified = ssl.create_default_context()
    authority.configure_trust(verified)
    with httpx.Client(verify=verified) as http, http.stream("GET", f"{url}/health") as response:
        shown = response.extensions["network_stream"].get_extra_info("ssl_object").getpeercert(True)
        assert response.status_code == 200
    return bytes(shown)


def test_answers_are_encrypted_and_a_renewed_certificate_is_shown(
    served: tuple[str, subprocess.Popen[str]], authority: trustme.CA, tmp_path: Path
) -> None:
    url, process = served
    assert url.startswith("https://127.0.0.1:")
    with pytest.raises(httpx.HTTPError):
        httpx.get(url.replace("https", "http"), timeout=20)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(url)
    first = shown_by(url, authority)
    (tmp_path / "server.pem").write_text("damaged")
    process.send_signal(signal.SIGHUP)
    assert shown_by(url, authority) == first
    write(authority, tmp_path / "server.pem")
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: shown_by(url, authority) != first)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert f"curl {url}/v1/" in output
    assert "the certificate stays as it was" in output


def test_the_page_trusts_what_its_server_shows_and_nobody_else(
    served: tuple[str, subprocess.Popen[str]],
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the certificate is for the name by which others reach the server, and after it was renewed."""
    url, process = served
    monkeypatch.setenv(TRUSTED_VARIABLE, str(tmp_path / "server.pem"))
    assert asyncio.run(Client(url).served()).adapters
    trusted = trusted_servers()
    assert asyncio.run(health(url, trusted)) == 200
    before = shown_by(url, authority)
    write(authority, tmp_path / "server.pem", "models.example.org")
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: ssl.get_server_certificate(address(url)) != ssl.DER_cert_to_PEM_cert(before))
    assert asyncio.run(health(url, trusted)) == 200
    write(authority, tmp_path / "other.pem")
    monkeypatch.setenv(TRUSTED_VARIABLE, str(tmp_path / "other.pem"))
    with pytest.raises(ServerError, match="does not answer"):
        asyncio.run(Client(url).served())


async def health(url: str, trusted: ssl.SSLContext | bool) -> int:
    async with httpx.AsyncClient(verify=trusted) as http:
        return (await http.get(f"{url}/health")).status_code


def address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("https://").split(":")
    return host, int(port)


def test_files_that_are_no_certificate_and_key_are_named(authority: trustme.CA, tmp_path: Path) -> None:
    one, other = (authority.issue_cert("127.0.0.1") for _ in range(2))
    files = {
        "cert.pem": one.cert_chain_pems[0].bytes(),
        "other.pem": other.private_key_pem.bytes(),
        "text.pem": b"hello",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for cert, key, told in [
        ("none.pem", None, "none.pem: No such file or directory"),
        ("text.pem", None, "no certificate and its private key as PEM"),
        ("cert.pem", None, "no certificate and its private key as PEM"),
        ("cert.pem", "other.pem", "key values mismatch"),
        ("cert.pem", "none.pem", "--ssl-keyfile"),
    ]:
        with pytest.raises(UsageError, match=told):
            Certificate(tmp_path / cert, None if key is None else tmp_path / key)


def test_a_key_with_a_password_is_refused_instead_of_asked_for(authority: trustme.CA, tmp_path: Path) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    issued = authority.issue_cert("127.0.0.1")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    (tmp_path / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(UsageError, match=r"the key has a password"):
        Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")


def test_a_key_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path), "--ssl-keyfile", "key.pem"]) == 2
    assert "it needs --ssl-certfile" in capsys.readouterr().err
