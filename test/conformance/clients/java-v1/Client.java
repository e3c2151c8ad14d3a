// Lists a bucket twice with what the default chain of the AWS SDK for Java 1 finds, and says who it was.
import com.amazonaws.ClientConfiguration;
import com.amazonaws.auth.DefaultAWSCredentialsProviderChain;
import com.amazonaws.client.builder.AwsClientBuilder.EndpointConfiguration;
import com.amazonaws.services.s3.AmazonS3;
import com.amazonaws.services.s3.AmazonS3ClientBuilder;
import com.amazonaws.services.securitytoken.AWSSecurityTokenService;
import com.amazonaws.services.securitytoken.AWSSecurityTokenServiceClientBuilder;
import com.amazonaws.services.securitytoken.model.GetCallerIdentityRequest;
import com.amazonaws.util.VersionInfoUtils;

public class Client {
  public static void main(String[] args) throws Exception {
    long start = System.nanoTime();
    long wait = Long.parseLong(System.getenv().getOrDefault("CONFORMANCE_WAIT", "0"));
    EndpointConfiguration endpoint =
        new EndpointConfiguration(System.getenv("AWS_ENDPOINT_URL"), System.getenv("AWS_REGION"));
    DefaultAWSCredentialsProviderChain found = DefaultAWSCredentialsProviderChain.getInstance();
    // Both clients read HTTP_PROXY and NO_PROXY by themselves.
    AmazonS3 s3 = AmazonS3ClientBuilder.standard().withCredentials(found).withEndpointConfiguration(endpoint)
        .withPathStyleAccessEnabled(true).withClientConfiguration(new ClientConfiguration()).build();
    AWSSecurityTokenService sts = AWSSecurityTokenServiceClientBuilder.standard().withCredentials(found)
        .withEndpointConfiguration(endpoint).build();
    for (int n = 1; n <= 2; n++) {
      try {
        found.getCredentials();
        long ms = (System.nanoTime() - start) / 1_000_000;
        String key = s3.listObjectsV2(System.getenv("CONFORMANCE_BUCKET")).getObjectSummaries().get(0).getKey();
        String arn = sts.getCallerIdentity(new GetCallerIdentityRequest()).getArn();
        System.out.printf("round=%d ms=%d sdk=aws-sdk-java/%s arn=%s key=%s%n", n, ms, VersionInfoUtils.getVersion(), arn, key);
      } catch (Exception e) {
        System.out.printf("round=%d error=%s%n", n, e.toString().replaceAll("\\s+", " "));
      }
      if (n == 1) {
        if (wait == 0) {
          System.exit(0);
        }
        Thread.sleep(wait * 1000);
      }
    }
    System.exit(0);
  }
}
