// AWS SDK for JavaScript v3 behind the protocol of all clients here (see ../python/protocol.py).
// CommonJS, because only `require` looks in NODE_PATH: the packages are installed outside of the source tree.
"use strict";

const readline = require("node:readline");
const { GetCallerIdentityCommand, STSClient } = require("@aws-sdk/client-sts");

let client;

async function identity(request) {
  if (request === "fetch") {
    client?.destroy();
    client = new STSClient({});
  }
  try {
    const { Arn } = await client.send(new GetCallerIdentityCommand({}));
    const { accessKeyId } = await client.config.credentials();
    return { ok: true, arn: Arn, access_key_id: accessKeyId };
  } catch (error) {
    return { ok: false, error: String(error) };
  }
}

async function main() {
  for await (const request of readline.createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await identity(request)));
  }
}

main();
