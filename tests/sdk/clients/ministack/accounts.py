"""Makes the roles of two accounts in ministack, as the operator of a CI cluster would with the `aws` command.

usage: accounts.py ENDPOINT ISSUER. Account 111111111111 has an OIDC provider for the cluster and the role that its pods get;
222222222222 has a role that this one may assume, by external id, and one that takes no tags; 333333333333 has one behind the former.
An account's number is its root's access key in ministack.
"""

import json
import sys

import boto3

ENDPOINT, ISSUER = sys.argv[1:]
PROVIDER = ISSUER.removeprefix("https://")
SUBJECT = "system:serviceaccount:ci-namespace:ci-serviceaccount"


def iam(account):
    return boto3.client("iam", endpoint_url=ENDPOINT, aws_access_key_id=account, aws_secret_access_key="test")


def policy(principal, actions, condition):
    statement = {"Effect": "Allow", "Principal": principal, "Action": actions, "Condition": condition}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def role(account, name, trust, may_assume=()):
    account.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
    for resource in may_assume:
        statement = {"Effect": "Allow", "Action": ["sts:AssumeRole", "sts:TagSession"], "Resource": resource}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        account.put_role_policy(RoleName=name, PolicyName=resource.rpartition("/")[2], PolicyDocument=document)


BASE = "arn:aws:iam::111111111111:role/ci-account-iam-role"
TARGET = "arn:aws:iam::222222222222:role/target-account-iam-role"
TAGLESS = "arn:aws:iam::222222222222:role/takes-no-tags"
DEPLOY = "arn:aws:iam::333333333333:role/deploy"
BOTH = ["sts:AssumeRole", "sts:TagSession"]

ci, target, deploy = iam("111111111111"), iam("222222222222"), iam("333333333333")
ci.create_open_id_connect_provider(Url=ISSUER, ClientIDList=["sts.amazonaws.com"])
# A projected token's `aud` is a list, which AWS compares member by member and ministack as a set.
by_token = {"StringEquals": {f"{PROVIDER}:sub": SUBJECT}, "ForAnyValue:StringEquals": {f"{PROVIDER}:aud": "sts.amazonaws.com"}}
by_external_id = {"StringEquals": {"sts:ExternalId": "demo/ci-namespace/ci-serviceaccount"}}
provider = {"Federated": f"arn:aws:iam::111111111111:oidc-provider/{PROVIDER}"}
role(ci, "ci-account-iam-role", policy(provider, "sts:AssumeRoleWithWebIdentity", by_token), [TARGET, TAGLESS])
role(target, "target-account-iam-role", policy({"AWS": BASE}, BOTH, by_external_id), [DEPLOY])
role(target, "takes-no-tags", policy({"AWS": BASE}, "sts:AssumeRole", {}))
role(deploy, "deploy", policy({"AWS": TARGET}, "sts:AssumeRole", {}))
