"""Certificates and keys: what a TLS library and ssh make of them, who may read them, and that none is overwritten."""

import base64
import hashlib
import os
import ssl
import stat

import pytest
import yaml

pytest.importorskip("cryptography")

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from ark_hf.federated.credentials import (
    SIGNATURE,
    check_certificate,
    check_public_key,
    check_site_key,
    check_trusted,
    make_server_credentials,
    make_site_key,
    read_signature,
    sign_app,
)

PRIVATE = {"ca.key", "server.key", "publisher", "north"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    make_server_credentials(folder, ["ark.example.org", "192.0.2.7"])
    make_site_key(folder, "north")
    return folder


def shake_hands(keys, host: str) -> None:
    """TLS between two ends in memory; raises what the client would."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(keys / "server.crt", keys / "server.key")
    client = ssl.create_default_context(cafile=str(keys / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname=host), server.wrap_bio(up, down, server_side=True)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass


@pytest.mark.parametrize("host", ["ark.example.org", "192.0.2.7", "localhost", "127.0.0.1"])
def test_the_certificate_is_taken_for_the_hosts_that_were_named(keys, host):
    shake_hands(keys, host)


def test_the_certificate_is_refused_for_any_other_host_and_by_any_other_authority(keys, tmp_path):
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(keys, "ark.example.com")
    make_server_credentials(tmp_path, [])
    (tmp_path / "ca.crt").write_bytes((keys / "ca.crt").read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path, "localhost")


def test_private_files_are_for_their_owner_alone(keys):
    for path in keys.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == (0 if path.name in PRIVATE else 0o044), path
    assert {path.name for path in keys.iterdir()} > PRIVATE
    check_site_key(keys / "north")
    check_public_key(keys / "north.pub", "north")
    check_certificate(keys / "ca.crt")
    check_trusted(keys / "trusted.yaml")


def test_nothing_is_overwritten(keys):
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    for make in (lambda: make_server_credentials(keys, []), lambda: make_site_key(keys, "north")):
        with pytest.raises(ValueError, match="there already: keys are never overwritten"):
            make()
    assert before == {path.name: path.read_bytes() for path in keys.iterdir()}


@pytest.mark.parametrize("host", ["ark.example.org:8443", "https://ark", "*.example.org", "", "a b", "-x"])
def test_what_is_no_host_is_refused_before_anything_is_written(tmp_path, host):
    with pytest.raises(ValueError, match="is no host name or address"):
        make_server_credentials(tmp_path / "keys", [host])
    assert not (tmp_path / "keys").exists()


def test_a_pipe_is_no_key_and_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "key")
    for check in (check_site_key, check_trusted, check_certificate):
        with pytest.raises(ValueError, match="is no file"):
            check(tmp_path / "key")


@pytest.mark.parametrize("text", ["{", "[]", "{}", "[" * 100_000, '{"sha256": 3}'])
def test_a_damaged_signature_is_named(keys, tmp_path, text):
    (tmp_path / SIGNATURE).write_text(text)
    with pytest.raises(ValueError, match=f"{SIGNATURE} is (not JSON|of another version)"):
        read_signature(b"the app", tmp_path)


def test_a_signature_is_of_these_bytes_by_the_key_that_sites_trust(keys):
    sign_app(b"the app", keys)
    signed = read_signature(b"the app", keys)
    with pytest.raises(ValueError, match="of another version of the app: sign this one"):
        read_signature(b"another app", keys)
    ((name, line),) = yaml.safe_load((keys / "trusted.yaml").read_text()).items()
    assert signed["public_key_id"] == name
    signature = base64.urlsafe_b64decode(signed["signature"] + "==")
    at = signed["signed_at"].to_bytes(8, "big")
    key = load_ssh_public_key(line.encode())
    key.verify(signature, at + hashlib.sha256(b"the app").digest())
    with pytest.raises(InvalidSignature):
        key.verify(signature, at + hashlib.sha256(b"another app").digest())


@pytest.mark.parametrize("text", ["", "{}", "[]", "a: b", "a: 3", "{", "a: ssh-rsa AAAA"])
def test_a_site_that_would_trust_anything_is_refused(tmp_path, text):
    (tmp_path / "trusted.yaml").write_text(text)
    with pytest.raises(ValueError, match="must map names to ssh-ed25519 keys, at least one"):
        check_trusted(tmp_path / "trusted.yaml")


def test_keys_of_the_wrong_kind_are_named(keys, tmp_path):
    trusted = yaml.safe_dump({"a": (keys / "north.pub").read_text()})
    (tmp_path / "trusted.yaml").write_text(trusted)
    with pytest.raises(ValueError, match="must map names to ssh-ed25519 keys"):
        check_trusted(tmp_path / "trusted.yaml")
    for check, name in ((check_site_key, "publisher"), (check_site_key, "north.pub"), (check_certificate, "north")):
        with pytest.raises(ValueError, match=f"{name} is not "):
            check(keys / name)
    with pytest.raises(ValueError, match="nowhere.pub should be the public key of 'north': No such file"):
        check_public_key(keys / "nowhere.pub", "north")
    with pytest.raises(ValueError, match="is not the public key of 'north'"):
        check_public_key(keys / "publisher.pub", "north")
    with pytest.raises(ValueError, match="small letters"):
        make_site_key(tmp_path, "../north")


def test_a_private_key_that_others_may_read_is_refused(keys, tmp_path):
    make_site_key(tmp_path, "south")
    (tmp_path / "south").chmod(0o640)
    with pytest.raises(ValueError, match="chmod 600"):
        check_site_key(tmp_path / "south")
