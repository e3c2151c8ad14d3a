# Lists a bucket twice with what boto3's default chain finds, and says who it was.
import os
import time


def main():
    start = time.monotonic()
    import boto3
    from botocore.config import Config

    session = boto3.Session()
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    s3 = sts = None
    wait = int(os.environ.get("CONFORMANCE_WAIT", "0"))
    for n in (1, 2):
        try:
            if n == 1:
                found = session.get_credentials()
                if found is None:
                    raise RuntimeError("Unable to locate credentials")
                found.get_frozen_credentials()
                ms = round((time.monotonic() - start) * 1000)
                s3 = session.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}))
                sts = session.client("sts", endpoint_url=endpoint)
            key = s3.list_objects_v2(Bucket=os.environ["CONFORMANCE_BUCKET"])["Contents"][0]["Key"]
            print(f"round={n} ms={ms} sdk=boto3/{boto3.__version__} arn={sts.get_caller_identity()['Arn']} key={key}", flush=True)
        except Exception as e:  # whatever it is, it is the result
            text = " ".join(f"{type(e).__name__}: {e}".split())
            print(f"round={n} error={text}", flush=True)
            if s3 is None:
                return
        if n == 1:
            if wait == 0:
                return
            time.sleep(wait)


main()
