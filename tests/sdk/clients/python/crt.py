"""The AWS Common Runtime: its default chain, its signer.

It has no client of STS, so the call to `AWS_ENDPOINT_URL_STS` is written by hand.
"""

import os
import urllib.request
from io import BytesIO
from urllib.parse import urlsplit

from awscrt.auth import AwsCredentialsProvider, AwsSigningConfig, aws_sign_request
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientBootstrap, InputStream
from protocol import serve

STS = os.environ["AWS_ENDPOINT_URL_STS"]
BODY = b"Action=GetCallerIdentity&Version=2011-06-15"
LIMIT_SECONDS = 20

provider = None


def identity(request):
    global provider
    if request == "fetch":
        provider = AwsCredentialsProvider.new_default_chain(ClientBootstrap.get_or_create_static_default())
    credentials = provider.get_credentials().result(LIMIT_SECONDS)
    with urllib.request.urlopen(signed(credentials), timeout=LIMIT_SECONDS) as answer:
        text = answer.read().decode()
    arn = text.partition("<Arn>")[2].partition("</Arn>")[0]
    return {"arn": arn, "access_key_id": credentials.access_key_id}


def signed(credentials):
    headers = HttpHeaders([("Host", urlsplit(STS).netloc), ("Content-Type", "application/x-www-form-urlencoded")])
    request = HttpRequest("POST", "/", headers, InputStream(BytesIO(BODY)))
    static = AwsCredentialsProvider.new_static(
        credentials.access_key_id, credentials.secret_access_key, credentials.session_token
    )
    config = AwsSigningConfig(credentials_provider=static, region=os.environ["AWS_REGION"], service="sts")
    aws_sign_request(request, config).result(LIMIT_SECONDS)
    return urllib.request.Request(f"{STS}/", BODY, dict(request.headers))


serve(identity)
