"""ministack, a simulated AWS that we did not write, with the one answer mended that no agent may believe.

For every web identity it answers that the token's subject was `test-subject`; AWS names the token's own. credlet refuses an answer
that is about somebody else, so with the argument `honest-subject` the token's own subject is put there; all else is as published.
"""

import base64
import json
import sys
from urllib.parse import parse_qs

from ministack import app
from ministack.services import sts

published = sts.handle_request


def subject_of(body):
    tokens = parse_qs(body.decode()).get("WebIdentityToken")
    if not tokens:
        return "test-subject"
    claims = tokens[0].split(".")[1]
    return json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]


async def honest(method, path, headers, body, query):
    status, answer_headers, answer = await published(method, path, headers, body, query)
    return status, answer_headers, answer.replace(b"test-subject", subject_of(body).encode())


if sys.argv[1:] == ["honest-subject"]:
    sts.handle_request = honest
sys.argv[1:] = []
app.main()
