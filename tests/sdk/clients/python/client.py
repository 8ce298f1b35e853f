"""boto3 as a pod's application uses it: default chain, default settings.

Protocol of all clients here: a line `fetch` makes a new credential chain, a line `use` keeps the one before; each is answered by one
JSON line that says whom a call signed with the chain's credentials was taken for, or the error. A client ends with its input.
"""

import json
import sys

import boto3

session = None


def identity(request):
    global session
    if request == "fetch":
        session = boto3.session.Session()
    identity = session.client("sts").get_caller_identity()
    access_key_id = session.get_credentials().get_frozen_credentials().access_key
    return {"ok": True, "arn": identity["Arn"], "access_key_id": access_key_id}


def attempt(request):
    try:
        return identity(request)
    except Exception as error:
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}


for line in sys.stdin:
    print(json.dumps(attempt(line.strip())), flush=True)
