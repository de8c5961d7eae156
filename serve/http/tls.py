"""TLS: the certificate that a server shows, read again at SIGHUP; and how its own page trusts it."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

from ptune.errors import UsageError

_log = logging.getLogger("ptune.serve")


class Certificate:
    """A certificate and its private key, as PEM files; without a second file the first holds both.

    Raises: UsageError if the files are no such pair.
    """

    def __init__(self, certfile: Path, keyfile: Path | None = None) -> None:
        self.path, self._keyfile = certfile, keyfile or certfile
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(self.context)

    def reload(self) -> None:
        """Reads the files again, for connections to come. If they are damaged, logs that and keeps what there is."""
        try:
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))  # half a pair would stay in the context
            self._load(self.context)
        except UsageError as error:
            _log.error("the certificate stays as it was: %s", error)
        else:
            _log.info("certificate read from %s", self.path)

    def _load(self, context: ssl.SSLContext) -> None:
        for option, path in (("--ssl-certfile", self.path), ("--ssl-keyfile", self._keyfile)):
            try:
                path.read_bytes()
            except OSError as error:
                raise UsageError(f"{option} {path}: {error.strerror}") from None
        try:
            context.load_cert_chain(self.path, self._keyfile, password=self._refuse_password)
        except ssl.SSLError as error:
            why = (error.reason or "not PEM").replace("_", " ").lower()
            raise UsageError(
                f"--ssl-certfile {self.path}, --ssl-keyfile {self._keyfile}: no certificate and its private key"
                f" as PEM ({why})"
            ) from None

    def _refuse_password(self) -> str:
        raise UsageError(f"--ssl-keyfile {self._keyfile}: the key has a password; store it without one")


def scheme_of(certificate: Certificate | None) -> str:
    """Of the server's URL."""
    return "http" if certificate is None else "https"


class OnlyThis(ssl.SSLContext):
    """Trusts a server that shows the certificate in this file now, whatever name it is called by, and no other."""

    _certfile: Path

    def __new__(cls, certfile: Path) -> OnlyThis:
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= (
            ssl.VERIFY_X509_PARTIAL_CHAIN
        )  # the certificate is enough, without who signed it
        context._certfile = certfile
        return context

    def wrap_bio(self, *given: Any, **named: Any) -> ssl.SSLObject:
        """Called for each connection: the file may have been renewed since the last."""
        self.load_verify_locations(self._certfile)
        return super().wrap_bio(*given, **named)
