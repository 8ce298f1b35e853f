"""Says whether an EKS Auth endpoint speaks the wire of AWS's own service model, by asking it with botocore's `eks-auth` client.

usage: eks_auth.py ENDPOINT CLUSTER. One token a line in, one JSON line out: the answer's members as botocore parsed them, or the
class of the exception that it raised (plain ClientError for what is not in the model), with the HTTP status. One attempt a line, so that a scripted answer meets one request.
"""

import json
import sys
from datetime import datetime

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ENDPOINT, CLUSTER = sys.argv[1:]
CLIENT = boto3.client("eks-auth", endpoint_url=ENDPOINT, config=Config(retries={"total_max_attempts": 1}))


def answer(token):
    response = CLIENT.assume_role_for_pod_identity(clusterName=CLUSTER, token=token)
    expiration = response["credentials"]["expiration"]
    assert isinstance(expiration, datetime), f"expiration is no timestamp: {expiration!r}"
    response["credentials"]["expiration"] = int(expiration.timestamp())
    response["requestId"] = response.pop("ResponseMetadata")["RequestId"]
    return {"ok": True, "response": response}


def refusal(error):
    return {
        "ok": False,
        "class": type(error).__name__,
        "status": error.response["ResponseMetadata"]["HTTPStatusCode"],
        "message": error.response["Error"]["Message"],
    }


def attempt(token):
    try:
        return answer(token)
    except ClientError as error:
        return refusal(error)


for line in sys.stdin:
    print(json.dumps(attempt(line.strip())), flush=True)
