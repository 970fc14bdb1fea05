"""
Keys and certificates of a federation, which Flower reads: made once, never overwritten, private ones for their owner.

The server has a certificate by an authority of its own (TLS) and a key by which it signs the app; a site has a key by
which it is known, and a file of the signatures that it trusts.
"""

import base64
import hashlib
import ipaddress
import os
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..files import read_json, write_json
from ..plain_yaml import parse_yaml
from .recipe import check_site_name

CA, CERTIFICATE, CERTIFICATE_KEY = "ca.crt", "server.crt", "server.key"
PUBLISHER, TRUSTED, SIGNATURE = "publisher", "trusted.yaml", "signature.json"
LIFETIME = timedelta(days=1095)
HOST = r"[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9-]{1,63})*"
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def make_server_credentials(folder: Path, hosts: Sequence[str]) -> None:
    """
    Makes what a server needs: certificates, and the key by which it signs. Sites get `ca.crt` and `trusted.yaml`.

    Args:
        hosts: Names and addresses by which sites reach the server; this machine's own are added.

    Raises:
        ValueError: A name is none, or a file is there already.
    """
    names = [_host(host) for host in dict.fromkeys([*hosts, *THIS_MACHINE])]
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    subject = _subject("Ark federation")
    ca = (
        _certificate(subject, subject, authority.public_key(), authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority, hashes.SHA256())
    )
    certificate = (
        _certificate(_subject("Ark federation server"), subject, server.public_key(), authority.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority, hashes.SHA256())
    )
    publisher = ed25519.Ed25519PrivateKey.generate()
    line = _public_line(publisher, PUBLISHER)
    _write_new(
        folder,
        {
            CA: ca.public_bytes(Encoding.PEM),
            "ca.key": authority.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            CERTIFICATE: certificate.public_bytes(Encoding.PEM),
            CERTIFICATE_KEY: server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            PUBLISHER: publisher.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
            f"{PUBLISHER}.pub": line + b"\n",
            TRUSTED: yaml.safe_dump({_key_id(publisher.public_key()): line.decode()}, width=200).encode(),
        },
        private={"ca.key", CERTIFICATE_KEY, PUBLISHER},
    )


def make_site_key(folder: Path, name: str) -> Path:
    """
    Makes the key of a site: `name`, which stays there, and `name.pub`, which the server gets.

    Returns:
        The path of the public one.

    Raises:
        ValueError: The name is none, or a file is there already.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    files = {
        check_site_name(name): key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        f"{name}.pub": _public_line(key, name) + b"\n",
    }
    _write_new(folder, files, private={name})
    return folder / f"{name}.pub"


def sign_app(app: bytes, folder: Path) -> None:
    """
    Writes the signature of an app by the publisher's key in `folder`; the key may then leave the server.

    Raises:
        ValueError: There is no such key.
    """
    key = _load(folder / PUBLISHER, load_ssh_private_key, ed25519.Ed25519PrivateKey, "the publisher's key")
    signed_at = int(time.time())
    signature = key.sign(signed_at.to_bytes(8, "big") + hashlib.sha256(app).digest())
    told = {
        "public_key_id": _key_id(key.public_key()),
        "signed_at": signed_at,
        "signature": base64.urlsafe_b64encode(signature).rstrip(b"=").decode(),
    }
    write_json(folder / SIGNATURE, {"sha256": hashlib.sha256(app).hexdigest(), **told})


def read_signature(app: bytes, folder: Path) -> dict[str, Any]:
    """
    What [`sign_app`] wrote, as Flower checks it at a site.

    Raises:
        ValueError: Nothing is there, or it is of another app: that of another version.
    """
    _read(folder / SIGNATURE, "the app's signature")
    told = read_json(folder / SIGNATURE)
    if not isinstance(told, dict) or told.pop("sha256", None) != hashlib.sha256(app).hexdigest():
        raise ValueError(
            f"{folder / SIGNATURE} is of another version of the app: sign this one where the publisher's key is, by "
            "`ark-hf federate sign FOLDER`."
        )
    return told


def check_certificate(path: Path) -> None:
    """Raises `ValueError` if it is no certificate, or not valid today."""
    certificate = _load(path, lambda text, _: x509.load_pem_x509_certificate(text), x509.Certificate, "a certificate")
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= datetime.now(UTC) <= end:
        raise ValueError(f"{path} is valid from {start:%Y-%m-%d} to {end:%Y-%m-%d}: it needs a successor.")


def check_site_key(path: Path) -> None:
    """Raises `ValueError` if it is not the private key of a site, or others may read it."""
    _load(path, load_ssh_private_key, ec.EllipticCurvePrivateKey, "the private key of a site")
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path} is a private key that others than its owner may read: `chmod 600 {path}`.")


def check_public_key(path: Path, site: str) -> None:
    """Raises `ValueError` if it is not the public key of a site."""
    _load(path, lambda text, _: load_ssh_public_key(text), ec.EllipticCurvePublicKey, f"the public key of {site!r}")


def check_trusted(path: Path) -> None:
    """Raises `ValueError` if it lists no key: Flower would then run an app without any signature."""
    text = _read(path, "the keys that this site trusts")
    try:
        keys = parse_yaml(text.decode())
        usable = isinstance(keys, Mapping) and all(isinstance(name, str) for name in keys)
        usable = usable and all(
            isinstance(load_ssh_public_key(line.encode()), ed25519.Ed25519PublicKey) for line in keys.values()
        )
    except Exception:
        usable = False
    if not usable or not keys:
        raise ValueError(f"{path} must map names to ssh-ed25519 keys, at least one: take the server's {TRUSTED}.")


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not re.fullmatch(HOST, name, re.ASCII):
        raise ValueError(f"{name!r} is no host name or address, such as ark.example.org or 192.0.2.7, no port.")
    return x509.DNSName(name)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, issuer_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _public_line(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, comment: str) -> bytes:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b" " + comment.encode()


def _key_id(key: ed25519.Ed25519PublicKey) -> str:
    """By what stands in it: a site may trust the publishers of several federations."""
    return f"ark-{hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]}"


def _write_new(folder: Path, files: Mapping[str, bytes], private: set[str]) -> None:
    there = [name for name in files if (folder / name).exists()]
    if there:
        raise ValueError(f"{folder / there[0]} is there already: keys are never overwritten. Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        mode = 0o600 if name in private else 0o644
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)


def _load(path: Path, load: Any, kind: type, what: str) -> Any:
    text = _read(path, what)
    try:
        key = load(text, None)
    except Exception:  # of many kinds
        key = None
    if not isinstance(key, kind):
        raise ValueError(f"{path} is not {what}, or it is protected by a password.")
    return key


def _read(path: Path, what: str) -> bytes:
    if path.exists() and not path.is_file():  # a pipe or a device would be read for ever
        raise ValueError(f"{path} should be {what}, and is no file.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} should be {what}: {error.strerror}.") from None
