"""Addresses of remote data: which are refused because they hold a secret, and how they are taken apart."""

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote

import numpy as np

from repre.data.io.names import Names
from repre.errors import UserError

REMOTE_GIB = 20.0
"""Size in GiB of the fetched files that are kept on the disk, by default."""
WEB = ("http", "https")
SECRET_WORDS = "sig|signature|token|key|apikey|secret|password|passwd|pwd|auth|credential|credentials|expires"
SECRET_KEY = re.compile(
    rf"^x-(amz|goog|ms)-|(^|[-_.])({SECRET_WORDS})($|[-_.])|(key|keyid|token|accessid)$|signature|credential",
    re.IGNORECASE,
)
"""Keys of a query that belong to a signed address or a password."""


def is_address(spec: str) -> bool:
    """Whether a ``--data`` string is an address such as ``s3://bucket/photos/``."""
    return "://" in spec


def protocol_of(address: str) -> str:
    """The protocol of an address, in lower case."""
    return address.partition("://")[0].lower()


def root_of(address: str) -> str:
    """Protocol and host or bucket of an address, with a slash at the end."""
    protocol, _, rest = address.partition("://")
    return f"{protocol}://{re.split('[/?#]', rest, maxsplit=1)[0]}/"


def check_address(address: str) -> None:
    """Refuses an address with a password or a signature, because configs, logs and reports would repeat it.

    Raises:
        UserError: without the secret in its message.
    """
    if address.startswith("hf:") and (secret := _secret_key(address)):
        raise _refusal(f"{address.partition('?')[0]}?{secret}=...", f"a signature or key ({secret})", "hf")
    if not is_address(address):
        return
    protocol = protocol_of(address)
    if "::" in address:
        raise UserError(f"--data {protocol}://...: nested addresses (::) are not supported; name the file itself")
    _, _, rest = address.partition("://")
    if not rest.strip("/"):
        raise UserError(f"--data {address} names no bucket or host; write {protocol}://NAME/photos/")
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in unquote(host):
        raise _refusal(f"{protocol}://...@{host.rpartition('@')[2]}", "a user name or password", protocol)
    if secret := _secret_key(rest):
        raise _refusal(f"{root_of(address)}...?{secret}=...", f"a signature or key ({secret})", protocol)


def _secret_key(address: str) -> str | None:
    """The first key in the query of an address that belongs to a signature or a password."""
    query = "&".join(re.split("[?#;]", address)[1:])
    keys = [key for key, _ in parse_qsl(query, keep_blank_values=True)]
    return next((key for key in keys if SECRET_KEY.search(key)), None)


def check_listed_addresses(names: Names, *, below: str = "") -> None:
    """Checks the addresses of a list; most lists have neither `?` nor `@`, which one search tells.

    Args:
        below: address that names without a protocol are relative to.
    """
    if np.isin(names.block, [ord("?"), ord("@"), ord("#")]).any():
        for name in names:
            check_address(name if is_address(name) else below + name)


def relative_names(addresses: Names, root: str) -> Iterator[bytes]:
    """The addresses without their common root.

    Raises:
        UserError: one has another root.
    """
    beginning = root.encode()
    for number in range(len(addresses)):
        address = addresses.encoded(number)
        if not address.startswith(beginning):
            check_address(addresses[number])
            raise UserError(
                f"--data: the addresses of a list must have one protocol and one host or bucket: line 1 has {root}, another "
                f"{root_of(addresses[number])}; write a list for each and name them one after another"
            )
        yield address[len(beginning) :]


def _refusal(address: str, what: str, protocol: str) -> UserError:
    ways = {
        "http": "write it to ~/.netrc",
        "https": "write it to ~/.netrc",
        "s3": "give AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
        "gs": "run gcloud auth application-default login",
        "hf": "run hf auth login",
    }
    return UserError(
        f"--data {address} holds {what}, which would appear in configs, logs and reports; "
        f"{ways.get(protocol, 'use the usual places of that library')} and leave it out of the address"
    )
