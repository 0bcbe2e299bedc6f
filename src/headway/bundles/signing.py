"""Signatures: OpenSSF model signing with an elliptic curve key that is made at first use.

A bundle carries its signer's public key, so that anybody can check that nothing was changed since it was sealed. Who
that signer is, is another question: a key is trusted when it is this machine's own, when the user stored it among the
trusted ones, or when it is given with the call.
"""

import base64
import binascii
import contextlib
import hashlib
import json
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.core.errors import BundleError, FormatError, TamperedError
from headway.core.files import digest_file, home, make_folder, waiting, write_atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from model_signing.hashing import Config

SIGNATURE = "signature.json"
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_MAX_SIGNATURE_BYTES = 64 << 20
_MAX_KEY_BYTES = 1 << 16


def signing_key() -> Path:
    """This machine's private key (P-256, PEM, mode 0600), made at first use; safe to call from several processes."""
    path = _keys() / "signing.pem"
    if path.is_file():
        return path
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    make_folder(path.parent, mode=0o700)
    with waiting(path.with_suffix(".lock")):
        if not path.is_file():
            key = ec.generate_private_key(ec.SECP256R1())
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_atomic(path, pem, mode=0o600)
    return path


def public_key(private: Path) -> str:
    """The PEM of the public half of a private key. Raises `FormatError` where the file holds no such key."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(private.read_bytes(), password=None)
    except (ValueError, TypeError, OSError) as error:
        raise FormatError(f"cannot be read as a private key: {error}", where=str(private)) from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise FormatError("not an elliptic curve key", where=str(private))
    return _pem(key.public_key())


def read_public_key(path: Path) -> str:
    """The PEM of a public key file, in its normal form. Raises `FormatError` where the file holds no such key."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", where=str(path), remedy="Check the path.") from error
    return _pem(_load(data, str(path)))


def fingerprint(pem: str) -> str:
    """SHA-256 of the key's DER form (SubjectPublicKeyInfo), as 64 hex digits."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = _load(pem.encode(), "public key").public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def sign(folder: Path, private: Path) -> None:
    """Write `signature.json` over every other file in `folder`."""
    from model_signing import signing

    signer = signing.Config().use_elliptic_key_signer(private_key=private)  # type: ignore[no-untyped-call]
    signer.set_hashing_config(_everything()).sign(folder, folder / SIGNATURE)


def check_signature(folder: Path, signer: str, files: Collection[str]) -> None:
    """Check `signature.json` with the PEM `signer`, and that it covers exactly `files`.

    Raises:
        TamperedError: the signature is missing, damaged, another key's, of other content, or leaves a file out.
    """
    path = folder / SIGNATURE
    covered = _covered(path, signer)
    if unsigned := sorted(set(files) - set(covered)):
        raise TamperedError(f"the signature does not cover {unsigned[0]}", where=str(path))

    from model_signing import verifying

    with tempfile.TemporaryDirectory(prefix="headway-") as scratch:
        key = Path(scratch) / "signer.pem"
        key.write_text(signer, encoding="ascii")
        try:
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)  # type: ignore[no-untyped-call]
            verifier.set_hashing_config(_everything()).verify(folder, path)
        except Exception as error:  # what cryptography, pydantic and the library raise shares no other base
            changed = sorted(name for name in files if digest_file(folder / name) != covered[name])
            if len(changed) == 1:
                raise TamperedError(f"{changed[0]} was changed after sealing", where=str(folder)) from error
            reason = str(error).partition("\n")[0][:200] or "the signature is not the signer's"
            if changed:
                reason = f"{len(changed)} files are not what was signed, {changed[0]} the first"
            raise TamperedError(f"the signature does not hold: {reason}", where=str(path)) from error


def check_trust(signer: str, given: Path | None, where: str) -> None:
    """Accept the PEM `signer` when it is `given`, this machine's own, or stored as trusted.

    Raises:
        BundleError: it is none of these.
    """
    print_of = fingerprint(signer)
    if given is not None:
        if fingerprint(read_public_key(given)) == print_of:
            return
        raise BundleError(f"signed by another key than {given} (the signer's SHA-256 is {print_of})", where=where)
    own = _keys() / "signing.pem"
    if own.is_file() and fingerprint(public_key(own)) == print_of:
        return
    if any(fingerprint(read_public_key(path)) == print_of for path in sorted(_trusted().glob("*.pem"))):
        return
    raise BundleError(
        f"signed by a key that is not trusted here (SHA-256 {print_of})",
        where=where,
        remedy="Compare the fingerprint with the sender's. Then: headway bundle trust FILE_OR_BUNDLE,"
        " or for once: headway bundle verify BUNDLE --public-key FILE",
    )


def trust(pem: str) -> Path:
    """Store a public key among the trusted ones."""
    path = _trusted() / f"{fingerprint(pem)}.pem"
    make_folder(_keys(), mode=0o700)
    write_atomic(path, pem)
    return path


def _everything() -> "Config":
    """How files are hashed: all but the signature itself; by default the library would skip git's files."""
    from model_signing.hashing import Config

    config: Config = Config().use_file_serialization()  # type: ignore[no-untyped-call]
    return config.set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _covered(path: Path, signer: str) -> dict[str, str]:
    """SHA-256 of the files that the signature's statement names.

    The statement's form is the in-toto statement that OpenSSF model signing v1 describes. Whether the signature over
    it holds is checked afterwards; a signature that does not say which key made it is refused here, since the library
    would write a warning about it to stdout.
    """
    try:
        if path.stat().st_size > _MAX_SIGNATURE_BYTES:
            raise TamperedError("the signature is too large to be one", where=str(path))
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        hint = document["verificationMaterial"]["publicKey"]["hint"]
        statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"], validate=True))
        covered = {str(resource["name"]): str(resource["digest"]) for resource in statement["predicate"]["resources"]}
    except FileNotFoundError as error:
        raise TamperedError("the bundle is not signed: signature.json is missing", where=str(path.parent)) from error
    except (ValueError, KeyError, TypeError, RecursionError, OSError, binascii.Error) as error:
        raise TamperedError("signature.json is damaged", where=str(path)) from error
    if hint != hashlib.sha256(signer.encode()).hexdigest():
        raise TamperedError("the signature was made with another key than the manifest names", where=str(path))
    return covered


def _load(data: bytes, where: str) -> "EllipticCurvePublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    with contextlib.suppress(ValueError, UnsupportedAlgorithm):
        key = load_pem_public_key(data)
        if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES:
            return key
    raise FormatError("not the PEM of an elliptic curve public key (P-256, P-384 or P-521)", where=where)


def _pem(key: "EllipticCurvePublicKey") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def _keys() -> Path:
    return home() / "keys"


def _trusted() -> Path:
    return _keys() / "trusted"
