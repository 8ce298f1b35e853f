import com.google.gson.Gson;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import software.amazon.awssdk.auth.credentials.AwsCredentialsProvider;
import software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider;
import software.amazon.awssdk.services.sts.StsClient;

/** AWS SDK for Java v2 behind the protocol of all clients here (see ../python/protocol.py). */
final class Client {
    private static final Gson JSON = new Gson();

    private static AwsCredentialsProvider credentials;
    private static StsClient sts;

    public static void main(String[] arguments) throws IOException {
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (var request = lines.readLine(); request != null; request = lines.readLine()) {
            System.out.println(JSON.toJson(attempt(request)));
        }
    }

    private static Map<String, Object> attempt(String request) {
        if (request.equals("fetch")) {
            // create() would hand out one provider for the whole process, and with it what that has cached.
            credentials = DefaultCredentialsProvider.builder().build();
            sts = StsClient.builder().credentialsProvider(credentials).build();
        }
        try {
            var identity = sts.getCallerIdentity();
            var accessKeyId = credentials.resolveCredentials().accessKeyId();
            return Map.of("ok", true, "arn", identity.arn(), "access_key_id", accessKeyId);
        } catch (RuntimeException error) {
            return Map.of("ok", false, "error", error.toString());
        }
    }
}
