"""boto3 as a pod's application uses it: default chain, default settings.

Protocol of all clients here: one line in, one fetch with a credential chain of its own and a GetCallerIdentity signed with what it
gave, one JSON line out; ends with its input.
"""

import json
import sys

import boto3


def fetch():
    session = boto3.session.Session()
    identity = session.client("sts").get_caller_identity()
    access_key_id = session.get_credentials().get_frozen_credentials().access_key
    return {"ok": True, "arn": identity["Arn"], "account": identity["Account"], "access_key_id": access_key_id}


def attempt():
    try:
        return fetch()
    except Exception as error:
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}


for _ in sys.stdin:
    print(json.dumps(attempt()), flush=True)
