"""Who may do what. Pure decisions on a table of tokens; the refusals are those of the real Hub."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from zoo.hub_server.errors import forbidden, gated, not_signed_in, repo_not_found, wrong_token
from zoo.hub_server.records import RepoInfo

OPEN_HUB_USER = "zoo"
"""Who everybody is on a Hub without tokens."""


@dataclass(frozen=True)
class Account:
    """Somebody with a token.

    Attributes:
        name: user name, also the namespace of repos created without one.
        can_write: whether the token may change anything.
        sees: private and gated repos (`namespace/name`) that this account may read; None for all.
    """

    name: str
    can_write: bool = True
    sees: frozenset[str] | None = None


@dataclass(frozen=True)
class Access:
    """The rules of one Hub.

    Attributes:
        accounts: by token.
        read_only: nobody may change anything.
    """

    accounts: Mapping[str, Account] = field(default_factory=dict, repr=False)
    read_only: bool = False

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything, whatever `private` says: so without tokens, unless read-only."""
        return not self.accounts and not self.read_only

    def identify(self, authorization: str | None) -> Account | None:
        """The account behind an `Authorization` header, None without one.

        Raises:
            Refusal: 401 for a token that is not known.
        """
        if self.is_open:
            return Account(OPEN_HUB_USER)
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or not self.accounts:
            # Without accounts, a token that is sent is one for another Hub.
            return None
        found = None
        for known, account in self.accounts.items():
            # Digests, for the comparison takes the same time only for texts of the same length; all of them, always.
            if hmac.compare_digest(_digest(known), _digest(token)):
                found = account
        if found is not None:
            return found
        raise wrong_token()

    def check_write(self, account: Account | None) -> Account:
        """Return the account if it may write.

        Raises:
            Refusal: 401 without a token, 403 with one that only reads and where nobody writes.
        """
        if self.read_only:
            raise forbidden("This Hub is read-only: it was started without a token that may write.")
        if account is None:
            raise not_signed_in()
        if not account.can_write:
            raise forbidden("This token has no write permission.")
        return account

    def may_see(self, account: Account | None, info: RepoInfo) -> bool:
        """Whether a listing shows this repo to the account."""
        return self.is_open or not info.private or _is_listed(account, info)

    def check_visible(self, account: Account | None, info: RepoInfo) -> None:
        """Hide a private repo from those who may not see it.

        Raises:
            Refusal: 401 without a token, 404 with one, so that nobody learns what exists.
        """
        if self.may_see(account, info):
            return
        raise not_signed_in() if account is None else repo_not_found(info.name)

    def check_content(self, account: Account | None, info: RepoInfo) -> None:
        """Keep the content of a gated repo from those who were not let in; its listing is public.

        Raises:
            Refusal: 401 or 403 with the code GatedRepo.
        """
        if self.is_open or not info.gated or _is_listed(account, info):
            return
        raise gated(info.name, signed_in=account is not None)


def _is_listed(account: Account | None, info: RepoInfo) -> bool:
    return account is not None and (account.sees is None or info.name in account.sees)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def sign(secret: bytes, *parts: str | int) -> str:
    """A ticket for exactly these values. LFS addresses carry one, for the client sends no token to them."""
    text = "\0".join(str(part) for part in parts)
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def is_signed(secret: bytes, ticket: str, *parts: str | int) -> bool:
    """Whether `ticket` is the one that `sign` gave for these values."""
    return hmac.compare_digest(sign(secret, *parts).encode(), ticket.encode())
