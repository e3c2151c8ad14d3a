// Lists a bucket twice with what the default chain of the AWS SDK for Java 2 finds, and says who it was.
import java.net.URI;
import software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider;
import software.amazon.awssdk.core.util.VersionInfo;
import software.amazon.awssdk.services.s3.S3Client;
import software.amazon.awssdk.services.sts.StsClient;

public class Client {
  public static void main(String[] args) throws Exception {
    long start = System.nanoTime();
    long wait = Long.parseLong(System.getenv().getOrDefault("CONFORMANCE_WAIT", "0"));
    URI endpoint = URI.create(System.getenv("AWS_ENDPOINT_URL"));
    DefaultCredentialsProvider found = DefaultCredentialsProvider.builder().build();
    for (int n = 1; n <= 2; n++) {
      try {
        found.resolveCredentials();
        long ms = (System.nanoTime() - start) / 1_000_000;
        String key;
        String arn;
        try (S3Client s3 = S3Client.builder().credentialsProvider(found).endpointOverride(endpoint).forcePathStyle(true).build();
            StsClient sts = StsClient.builder().credentialsProvider(found).endpointOverride(endpoint).build()) {
          key = s3.listObjectsV2(r -> r.bucket(System.getenv("CONFORMANCE_BUCKET"))).contents().get(0).key();
          arn = sts.getCallerIdentity().arn();
        }
        System.out.printf("round=%d ms=%d sdk=aws-sdk-java/%s arn=%s key=%s%n", n, ms, VersionInfo.SDK_VERSION, arn, key);
      } catch (Exception e) {
        System.out.printf("round=%d error=%s%n", n, e.toString().replaceAll("\\s+", " "));
      }
      if (n == 1) {
        if (wait == 0) {
          return;
        }
        Thread.sleep(wait * 1000);
      }
    }
  }
}
