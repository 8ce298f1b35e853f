// AWS SDK for JavaScript v3 behind the protocol of all clients here (see ../python/client.py).
// CommonJS, because only `require` looks in NODE_PATH: the packages are installed outside of the source tree.
"use strict";

const readline = require("node:readline");
const { GetCallerIdentityCommand, STSClient } = require("@aws-sdk/client-sts");

async function fetchOnce() {
  const client = new STSClient({});
  try {
    const identity = await client.send(new GetCallerIdentityCommand({}));
    const { accessKeyId } = await client.config.credentials();
    return { ok: true, arn: identity.Arn, account: identity.Account, access_key_id: accessKeyId };
  } catch (error) {
    return { ok: false, error: String(error) };
  } finally {
    client.destroy();
  }
}

async function main() {
  for await (const _ of readline.createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await fetchOnce()));
  }
}

main();
