"""Encrypted bundles: a `.hw` in the age format, which other tools (`age`, `rage`) read as well.

https://age-encryption.org/v1: a random file key, wrapped for each recipient (X25519, SSH keys) or by a passphrase
(scrypt), and ChaCha20-Poly1305 over chunks, so that a changed or truncated file is noticed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headway.bundles.archive import AGE_MAGIC, archive
from headway.bundles.bundle import Bundle
from headway.bundles.cache import cache_folder
from headway.core.errors import BundleError, FormatError, UsageError
from headway.core.files import atomic_file

_MAX_SECRET_BYTES = 1 << 16
_MAX_PASSPHRASE_PAYLOAD = 2 << 30
_MAKE_KEY = "Make a key with `age-keygen -o key.txt`, or use an SSH key (ssh-ed25519 or ssh-rsa)."


def encrypt(bundle: Bundle, out: Path, *, recipients: Sequence[str] = (), passphrase: str | None = None) -> Path:
    """Write `bundle` to the file `out`, for the recipients or under the passphrase.

    Args:
        recipients: `age1...` or SSH public keys.
        passphrase: instead of recipients; the bundle must then fit into memory.

    Raises:
        UsageError: neither or both are given, or a recipient cannot be read.
        StorageError: `out` cannot be written.
    """
    import pyrage

    if bool(recipients) == (passphrase is not None):
        raise UsageError("give either recipients or a passphrase")
    keys = [_recipient(text) for text in recipients]
    # What is not encrypted yet stays within the private cache, and is gone afterwards.
    with atomic_file(out) as fresh:
        plain = archive(bundle, cache_folder() / f".{fresh.name}.hw")
        try:
            if passphrase is None:
                pyrage.encrypt_file(str(plain), str(fresh), keys)
            else:
                _check_memory(plain)
                fresh.write_bytes(pyrage.passphrase.encrypt(plain.read_bytes(), passphrase))
        finally:
            plain.unlink(missing_ok=True)
    return out


def decrypt(path: Path, out: Path, *, identity: Path | None = None, passphrase: str | None = None) -> Path:
    """Write the `.hw` that `path` holds to the file `out`, which appears only when all of it is authentic.

    Args:
        identity: a file of age secret keys, or an SSH private key without a passphrase.
        passphrase: instead of an identity.

    Raises:
        UsageError: neither or both are given.
        FormatError: the file is not encrypted, or the identity cannot be read.
        BundleError: the wrong key or passphrase, or the file was changed or truncated.
    """
    import pyrage

    if (identity is None) == (passphrase is None):
        raise UsageError("give either an identity or a passphrase")
    if not is_encrypted(path):
        raise FormatError("not an encrypted bundle", where=str(path))
    keys = _identities(identity) if identity is not None else []
    with atomic_file(out) as fresh:
        try:
            if passphrase is None:
                pyrage.decrypt_file(str(path), str(fresh), keys)
            else:
                _check_memory(path)
                fresh.write_bytes(pyrage.passphrase.decrypt(path.read_bytes(), passphrase))
        except pyrage.DecryptError as error:
            reason = str(error)[:1].lower() + str(error)[1:]
            raise _unreadable(path, reason) from error
        except OSError as error:
            if error.errno is not None:  # the disk's; age reports a damaged chunk without a number
                raise
            raise _unreadable(path, "the file is damaged or truncated") from error
    return out


def is_encrypted(path: Path) -> bool:
    """Whether a file starts as the age format does. Raises `FormatError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(AGE_MAGIC)) == AGE_MAGIC
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", where=str(path), remedy="Check the path.") from error


def read_passphrase(path: Path) -> str:
    """The first line of a file. Raises `UsageError` where it is empty or cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            passphrase = file.readline(_MAX_SECRET_BYTES).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the passphrase file cannot be read as text", where=str(path)) from error
    if not passphrase:
        raise UsageError("the passphrase is empty", where=str(path))
    return passphrase


def _recipient(text: str) -> Any:
    import pyrage

    try:
        if text.startswith("ssh-"):
            return pyrage.ssh.Recipient.from_str(text)
        return pyrage.x25519.Recipient.from_str(text.strip())
    except pyrage.RecipientError as error:
        if text.startswith("AGE-SECRET-KEY-"):
            raise UsageError("that is a secret key; a recipient is its public half (age1...)") from error
        raise UsageError(f"not a recipient: {error}", where=text[:80], remedy=_MAKE_KEY) from error


def _identities(path: Path) -> list[Any]:
    import pyrage

    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SECRET_BYTES)
        if b"PRIVATE KEY-----" in data:
            return [pyrage.ssh.Identity.from_buffer(data)]
        lines = [line.strip() for line in data.decode("utf-8").splitlines()]
        found = [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except (OSError, UnicodeDecodeError, pyrage.IdentityError) as error:
        # Never the error's own words: they may quote the key.
        raise FormatError("cannot be read as an age or SSH private key", where=str(path), remedy=_MAKE_KEY) from error
    if not found:
        raise FormatError("holds no key", where=str(path), remedy=_MAKE_KEY)
    return found


def _check_memory(path: Path) -> None:
    if path.stat().st_size > _MAX_PASSPHRASE_PAYLOAD:
        raise BundleError(
            f"under a passphrase a bundle may have at most {_MAX_PASSPHRASE_PAYLOAD / 1e9:.0f} GB",
            where=str(path),
            remedy="Encrypt it for a recipient instead.",
        )


def _unreadable(path: Path, reason: str) -> BundleError:
    return BundleError(
        f"cannot be decrypted: {reason}", where=str(path), remedy="Is it the right key, and the file complete?"
    )
