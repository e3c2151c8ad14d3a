// Lists a bucket twice with what the default chain of the AWS SDK for JavaScript v2 finds, and says who it was.
const start = performance.now();
const AWS = require("aws-sdk");
const { ProxyAgent } = require("/client/proxy.js");

const wait = Number(process.env.CONFORMANCE_WAIT ?? 0);
const endpoint = process.env.AWS_ENDPOINT_URL;
// This SDK knows no proxy variables by itself: the container has no other way to the endpoint.
const httpOptions = process.env.HTTP_PROXY ? { agent: new ProxyAgent() } : {};
const s3 = new AWS.S3({ endpoint, s3ForcePathStyle: true, httpOptions });
const sts = new AWS.STS({ endpoint, httpOptions });

async function main() {
  for (const n of [1, 2]) {
    try {
      await new Promise((done, failed) => AWS.config.getCredentials((e) => (e ? failed(e) : done())));
      const ms = Math.round(performance.now() - start);
      const list = await s3.listObjectsV2({ Bucket: process.env.CONFORMANCE_BUCKET }).promise();
      const who = await sts.getCallerIdentity().promise();
      console.log(`round=${n} ms=${ms} sdk=aws-sdk-js/${AWS.VERSION} arn=${who.Arn} key=${list.Contents[0].Key}`);
    } catch (e) {
      console.log(`round=${n} error=${`${e.code}: ${e.message}`.replace(/\s+/g, " ")}`);
    }
    if (n === 1) {
      if (wait === 0) return;
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
    }
  }
}
main();
