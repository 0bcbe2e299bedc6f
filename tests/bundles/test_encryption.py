"""Encrypted bundles: the right key opens them, nothing else does, and what is damaged never appears."""

from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from headway.bundles.bundle import Bundle
from headway.bundles.encryption import decrypt, encrypt, read_passphrase
from headway.core.errors import BundleError, FormatError, UsageError

Seal = Callable[..., Bundle]


@pytest.fixture
def identity(tmp_path: Path) -> tuple[Path, str]:
    """An age key file, as age-keygen writes it, and its recipient."""
    key = pyrage.x25519.Identity.generate()
    path = tmp_path / "key.txt"
    path.write_text(f"# created: today\n# public key: {key.to_public()}\n{key}\n")
    return path, str(key.to_public())


def test_for_a_recipient(seal_linear: Seal, tmp_path: Path, identity: tuple[Path, str], home: Path) -> None:
    bundle = seal_linear()
    secret = encrypt(bundle, tmp_path / "x.hw.age", recipients=[identity[1]])
    assert b"linear" not in secret.read_bytes()
    opened = Bundle.open(decrypt(secret, tmp_path / "x.hw", identity=identity[0]))
    opened.verify()
    assert opened.digest == bundle.digest
    assert not list((home / "cache" / "bundles").glob(".x*")), "no plain copy is left"
    with pytest.raises(BundleError, match="encrypted") as caught:
        Bundle.open(secret)
    assert caught.value.remedy is not None
    assert "bundle decrypt" in caught.value.remedy


@pytest.mark.slow  # scrypt is meant to take its time: a second or two each
def test_under_a_passphrase(seal_linear: Seal, tmp_path: Path) -> None:
    right, wrong = "correct horse", "battery staple"
    secret = encrypt(seal_linear(), tmp_path / "x.age", passphrase=right)
    Bundle.open(decrypt(secret, tmp_path / "x.hw", passphrase=right)).verify()
    with pytest.raises(BundleError, match="cannot be decrypted"):
        decrypt(secret, tmp_path / "y.hw", passphrase=wrong)
    assert not (tmp_path / "y.hw").exists()


def test_for_an_ssh_key(seal_linear: Seal, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    path = tmp_path / "id_ed25519"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    recipient = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    secret = encrypt(seal_linear(), tmp_path / "x.age", recipients=[recipient])
    Bundle.open(decrypt(secret, tmp_path / "x.hw", identity=path)).verify()


def test_another_key_is_refused(seal_linear: Seal, tmp_path: Path, identity: tuple[Path, str]) -> None:
    other = pyrage.x25519.Identity.generate().to_public()
    secret = encrypt(seal_linear(), tmp_path / "x.age", recipients=[str(other)])
    with pytest.raises(BundleError, match="no matching keys"):
        decrypt(secret, tmp_path / "x.hw", identity=identity[0])


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.9999])
def test_truncated(seal_linear: Seal, tmp_path: Path, identity: tuple[Path, str], share: float) -> None:
    secret = encrypt(seal_linear(), tmp_path / "x.age", recipients=[identity[1]])
    data = secret.read_bytes()
    secret.write_bytes(data[: max(30, int(len(data) * share))])
    with pytest.raises(BundleError, match="cannot be decrypted"):
        decrypt(secret, tmp_path / "x.hw", identity=identity[0])
    assert not (tmp_path / "x.hw").exists()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_changed(seal_linear: Seal, tmp_path: Path, identity: tuple[Path, str], share: float) -> None:
    secret = encrypt(seal_linear(), tmp_path / "x.age", recipients=[identity[1]])
    data = bytearray(secret.read_bytes())
    data[int(len(data) * share)] ^= 1
    secret.write_bytes(data)
    with pytest.raises(BundleError, match="cannot be decrypted"):
        decrypt(secret, tmp_path / "x.hw", identity=identity[0])
    assert not (tmp_path / "x.hw").exists()


def test_wrong_arguments(seal_linear: Seal, tmp_path: Path, identity: tuple[Path, str]) -> None:
    bundle = seal_linear()
    with pytest.raises(UsageError, match="either recipients or a passphrase"):
        encrypt(bundle, tmp_path / "x.age")
    with pytest.raises(UsageError, match="not a recipient"):
        encrypt(bundle, tmp_path / "x.age", recipients=["age1nonsense"])
    secret_key = identity[0].read_text().split()[-1]
    with pytest.raises(UsageError, match="that is a secret key") as caught:
        encrypt(bundle, tmp_path / "x.age", recipients=[secret_key])
    assert secret_key not in str(caught.value)
    with pytest.raises(FormatError, match="not an encrypted bundle"):
        decrypt(bundle.path / "report.html", tmp_path / "x.hw", identity=identity[0])


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"AGE-SECRET-KEY-1SECRETSECRET\n", b"\xff\xfe"])
def test_a_key_file_that_holds_no_key_is_not_quoted(
    seal_linear: Seal, tmp_path: Path, identity: tuple[Path, str], content: bytes
) -> None:
    secret = encrypt(seal_linear(), tmp_path / "x.age", recipients=[identity[1]])
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(FormatError) as caught:
        decrypt(secret, tmp_path / "x.hw", identity=tmp_path / "bad.txt")
    assert "SECRETSECRET" not in str(caught.value)


def test_passphrase_files(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("pass word \nmore\n")
    assert read_passphrase(tmp_path / "p") == "pass word "
    (tmp_path / "p").write_text("\n")
    with pytest.raises(UsageError, match="empty"):
        read_passphrase(tmp_path / "p")
    with pytest.raises(UsageError, match="cannot be read"):
        read_passphrase(tmp_path / "none")
