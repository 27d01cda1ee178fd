"""Certificates of the server, and of who may ask it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import JobError
from ..core.need import need


@dataclass(frozen=True, kw_only=True)
class Tls:
    """PEM files. certificate: with its chain; ca: who signs the certificates that callers must have (mutual TLS); None: they need none."""

    certificate: Path
    key: Path
    ca: Path | None = None

    @classmethod
    def of(cls, certificate: Path | str | None, key: Path | str | None, ca: Path | str | None) -> Tls | None:
        """From the options of the command line; None where there are none. Raises JobError, also for files that do not fit together."""
        if certificate is None and key is None and ca is None:
            return None
        if certificate is None or key is None:
            raise JobError("--tls-cert", "must be given together with --tls-key")
        made = cls(certificate=Path(certificate), key=Path(key), ca=None if ca is None else Path(ca))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(made.certificate, made.key)
        except OSError as error:  # an SSLError is one
            raise JobError("--tls-cert", f"must be a certificate that goes with --tls-key ({_why(error)})", got=str(certificate)) from None
        try:
            if made.ca is not None:
                context.load_verify_locations(made.ca)
        except OSError as error:
            raise JobError("--tls-ca", f"must be certificates ({_why(error)})", got=str(ca)) from None
        return made

    def of_uvicorn(self) -> dict[str, Any]:
        """What uvicorn.Config takes."""
        options: dict[str, Any] = {"ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        return options if self.ca is None else {**options, "ssl_ca_certs": str(self.ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}

    def of_grpc(self) -> Any:
        """What a gRPC server's secure port takes."""
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        ca = None if self.ca is None else self.ca.read_bytes()
        grpc = need("grpc", why="to speak gRPC")
        return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)


def _why(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
