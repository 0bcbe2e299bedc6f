"""Who signed: keys made at first use, and trust that is given on purpose."""

import multiprocessing
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headway.bundles.bundle import Bundle
from headway.bundles.signing import fingerprint, public_key, read_public_key, signing_key, trust
from headway.core.errors import BundleError, FormatError

Seal = Callable[..., Bundle]


def make_key(home: str) -> str:
    os.environ["HEADWAY_HOME"] = home
    return signing_key().read_text()


@pytest.fixture
def stranger(seal_linear: Seal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Bundle, Path]:
    """A bundle that was sealed on another machine, and that machine's public key file."""
    bundle = seal_linear()
    key = tmp_path / "stranger.pem"
    key.write_text(public_key(signing_key()))
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "here"))
    return Bundle.open(bundle.path), key


def test_the_key_is_this_users_alone(home: Path) -> None:
    key = signing_key()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert signing_key().read_bytes() == key.read_bytes()


def test_two_processes_make_one_key(home: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        made = pool.map(make_key, [str(home)] * 4, chunksize=1)
        pool.close()
        pool.join()
    assert len(set(made)) == 1


def test_a_stranger_is_refused_with_fingerprint_and_remedy(stranger: tuple[Bundle, Path]) -> None:
    bundle, _ = stranger
    with pytest.raises(BundleError, match="not trusted") as caught:
        bundle.verify()
    assert fingerprint(bundle.manifest.signer) in caught.value.message
    assert caught.value.remedy is not None
    assert "--public-key" in caught.value.remedy
    assert "bundle trust" in caught.value.remedy
    bundle.verify(trust_any=True)


def test_a_given_key_is_the_only_one_accepted(stranger: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, key = stranger
    bundle.verify(public_key=key)
    own = tmp_path / "own.pem"
    own.write_text(public_key(signing_key()))
    with pytest.raises(BundleError, match="signed by another key"):
        bundle.verify(public_key=own)


def test_a_stored_key_is_trusted(stranger: tuple[Bundle, Path]) -> None:
    bundle, key = stranger
    trust(read_public_key(key))
    bundle.verify()


def test_an_attacker_who_signs_anew_is_a_stranger(seal_linear: Seal, tmp_path: Path) -> None:
    """They can make everything fit together again, but not with a key that is trusted here."""
    bundle = seal_linear()
    home = os.environ["HEADWAY_HOME"]
    os.environ["HEADWAY_HOME"] = str(tmp_path / "attacker")
    forged = seal_linear(seed=5, out=bundle.path)
    os.environ["HEADWAY_HOME"] = home
    with pytest.raises(BundleError, match="not trusted"):
        forged.verify()


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PUBLIC KEY-----\nxx\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_public_key(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(FormatError, match="not the PEM"):
        read_public_key(tmp_path / "key.pem")
    with pytest.raises(FormatError, match="cannot be read"):
        read_public_key(tmp_path / "none.pem")


def test_a_private_key_is_no_public_key(home: Path) -> None:
    with pytest.raises(FormatError, match="not the PEM"):
        read_public_key(signing_key())


def test_the_openssf_tool_verifies_our_signature(seal_linear: Seal, tmp_path: Path) -> None:
    bundle = seal_linear()
    key = tmp_path / "key.pem"
    key.write_text(bundle.manifest.signer)
    asked = subprocess.run(
        [sys.executable, "-m", "model_signing", "verify", "key", bundle.path,
         "--signature", bundle.path / "signature.json", "--public_key", key],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
