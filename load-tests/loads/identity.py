"""Whom the proxies say they are over TLS: a P-256 certificate for the loopback and `load.test`, and the authority that issued it."""

import dataclasses
import pathlib

from loads import tools

NAMES = "subjectAltName=IP:127.0.0.1,DNS:load.test"
KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2"]


@dataclasses.dataclass(frozen=True)
class Identity:
    """Files, all PEM."""

    # What clients trust.
    authority: pathlib.Path
    certificate: pathlib.Path
    key: pathlib.Path
    # Certificate and key in one, as HAProxy takes them.
    both: pathlib.Path


def make(found, folder):
    """Anew for each run; with openssl."""
    openssl = found.debian("openssl", "openssl")
    made = Identity(*(folder / name for name in ("authority.pem", "certificate.pem", "key.pem", "both.pem")))
    authority_key = folder / "authority.key"
    request = [openssl, "req", "-x509", *KEY]
    tools.call([*request, "-subj", "/CN=load tests", "-keyout", authority_key, "-out", made.authority])
    signed = ["-CA", made.authority, "-CAkey", authority_key, "-addext", "basicConstraints=critical,CA:FALSE"]
    tools.call([*request, *signed, "-subj", "/CN=load.test", "-addext", NAMES, "-keyout", made.key, "-out", made.certificate])
    made.both.write_bytes(made.certificate.read_bytes() + made.key.read_bytes())
    # Proxies that are started by root may give that up before they read it.
    made.key.chmod(0o644)
    return made
