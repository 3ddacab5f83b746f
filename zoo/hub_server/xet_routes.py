"""The route that lets the client upload by xet, or tells it how to upload instead."""

from __future__ import annotations

import secrets
import time

from starlette.responses import RedirectResponse, Response

from zoo.hub_server.addresses import is_loopback
from zoo.hub_server.errors import bad_request
from zoo.hub_server.http import Call, Route, answer
from zoo.hub_server.repos import visible_repo
from zoo.hub_server.xet import TOKEN_LIFE_S

ADVICE_PATH = "this-Hub-takes-LFS-uploads-only--set-HF_HUB_DISABLE_XET=1-and-try-again"
"""The client without `HF_HUB_DISABLE_XET=1` uploads by xet and by nothing else, whatever the server says."""

NO_XET = (
    "This Hub takes large files by LFS, not by xet: set HF_HUB_DISABLE_XET=1 and run the same upload again."
    " Downloads and server-side copies need nothing."
)


def write_token(call: Call) -> Response:
    """GET /api/models/{id}/xet-write-token/{revision}: a folder for the client to write to.

    Where that cannot be, the client is sent on to an address that says what to do: hf_xet follows the redirect and
    then shows the address, and nothing else of the answer, to the person.

    The answer lacks the `X-Xet-*` headers on purpose. hf_xet reads the body; who looks for the headers to choose
    between xet and LFS, as `zoo push` does, is better off with LFS here: content is then written once, not twice.
    """
    visible_repo(call)
    if not (call.hub.settings.xet_uploads and _shares_the_disk(call) and call.hub.store.xet.works()):
        return RedirectResponse(f"{call.endpoint}/{ADVICE_PATH}", status_code=307)
    stage = call.hub.store.xet.open(call.repo)
    expires = int(time.time()) + TOKEN_LIFE_S
    return answer({"accessToken": secrets.token_urlsafe(16), "exp": expires, "casUrl": stage.url})


def _shares_the_disk(call: Call) -> bool:
    """Whether the client is on this machine, as far as one can tell: it calls from loopback and says so.

    A tunnel or a proxy calls from loopback as well, but then the client usually knows the Hub by another name.
    """
    client = call.request.client
    return client is not None and is_loopback(client.host) and is_loopback(call.request.url.hostname or "")


def advise(_call: Call) -> Response:
    """Says how to upload instead."""
    raise bad_request(NO_XET)


ROUTES = (
    Route("GET", "api/{kind}/{namespace}/{name}/xet-write-token/{revision}", write_token, writes=True),
    Route("GET", ADVICE_PATH, advise),
)
