// Lists a bucket twice with what the default chain of the AWS SDK for JavaScript v3 finds, and says who it was.
const start = performance.now();
const { S3Client, ListObjectsV2Command } = await import("@aws-sdk/client-s3");
const { STSClient, GetCallerIdentityCommand } = await import("@aws-sdk/client-sts");
const { readFileSync } = await import("node:fs");

const version = JSON.parse(readFileSync("/client/node_modules/@aws-sdk/client-s3/package.json")).version;
const wait = Number(process.env.CONFORMANCE_WAIT ?? 0);

// This SDK knows no proxy variables by itself: the container has no other way to the endpoint.
const { NodeHttpHandler } = await import("@smithy/node-http-handler");
const { ProxyAgent } = (await import("/client/proxy.cjs")).default;
const requestHandler = process.env.HTTP_PROXY ? new NodeHttpHandler({ httpAgent: new ProxyAgent() }) : undefined;
const s3 = new S3Client({ forcePathStyle: true, requestHandler });
// One chain for both clients, as an application would have it: the one that S3 made for itself.
const sts = new STSClient({ credentials: s3.config.credentials, requestHandler });

for (const n of [1, 2]) {
  try {
    await s3.config.credentials();
    const ms = Math.round(performance.now() - start);
    const list = await s3.send(new ListObjectsV2Command({ Bucket: process.env.CONFORMANCE_BUCKET }));
    const who = await sts.send(new GetCallerIdentityCommand({}));
    console.log(`round=${n} ms=${ms} sdk=@aws-sdk/${version} arn=${who.Arn} key=${list.Contents[0].Key}`);
  } catch (e) {
    console.log(`round=${n} error=${`${e.name}: ${e.message}`.replace(/\s+/g, " ")}`);
  }
  if (n === 1) {
    if (wait === 0) break;
    await new Promise((resolve) => setTimeout(resolve, wait * 1000));
  }
}
