//go:build conformance

package conformance_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"taskrole/internal/diagnose"
)

// condition is what a container is given, and what answers in it.
type condition struct {
	name  string
	quick bool     // also in a quick run
	role  string   // of the agent, else the container is a plain one
	env   []string // arguments of env(1)
	files map[string]string
	serve map[string]http.HandlerFunc // by address and port
	// known are the clients that do something else than the doctor says, with the reason.
	known map[string]string
}

// listeners are what answers in the container, the services too.
func (n condition) listeners(s *services) map[netip.AddrPort]http.Handler {
	all := map[netip.AddrPort]http.Handler{netip.MustParseAddrPort(proxyAt): s}
	for port := range s.ports {
		all[netip.MustParseAddrPort("127.0.0.1:"+port)] = s
	}
	for at, h := range n.serve {
		all[netip.MustParseAddrPort(at)] = h
	}
	return all
}

// whose is the identity that was seen.
func (n condition) whose(signed *signature, output string) (source diagnose.Source, detail string) {
	if signed == nil {
		// Some SDKs know no endpoint for STS but the real one: that they ask there is seen in their complaint.
		if strings.Contains(output, "sts.us-east-1.amazonaws.com") || strings.Contains(output, "sts.amazonaws.com") {
			return diagnose.FromWebIdentity, ""
		}
		return diagnose.FromNowhere, ""
	}
	if who, ok := identities[signed.key]; ok {
		return who.source, who.detail
	}
	if n.role != "" {
		return fromRole, ""
	}
	return diagnose.Source("another key: " + signed.key), ""
}

const (
	proxyAt = "127.0.0.1:3128"
	ecsAt   = "169.254.170.2:80"
	imdsAt  = "169.254.169.254:80"
	loAt    = "127.0.0.1:80"
	home    = "/root/.aws/credentials"
	proxy   = "HTTP_PROXY=http://" + proxyAt

	homeConfig    = "/root/.aws/config"
	sessionToken  = "made-up-session-token"
	securityToken = "made-up-security-token"
	here          = relative + "=/v2/credentials/x"
)

func section(name, id string) string {
	return fmt.Sprintf("[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n", name, id, madeUp)
}

func conditions() []condition {
	return slices.Concat(keysAndFiles(), webIdentities(), containers(), metadata(), roles())
}

// answers in most conditions: a container endpoint, and the instance's metadata service with another role.
func bothAnswer() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{ecsAt: well, imdsAt: hostIMDS(nil)}
}

func alone(at string, h http.HandlerFunc) map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{at: h}
}

// keysAndFiles is what can be in the environment and in files.
func keysAndFiles() []condition {
	static := []string{"AWS_ACCESS_KEY_ID=" + envKeyID, "AWS_SECRET_ACCESS_KEY=" + madeUp}
	temporary := []string{"AWS_ACCESS_KEY_ID=" + sessionID, "AWS_SECRET_ACCESS_KEY=" + madeUp, "AWS_SESSION_TOKEN=" + sessionToken}
	plus := func(env []string, more ...string) []string { return slices.Concat(env, more) }
	custom := "AWS_SHARED_CREDENTIALS_FILE=/tmp/custom"
	inCustom := map[string]string{"/tmp/custom": section("default", fileID) + section("p", profileID)}
	list := []condition{
		{name: "a container endpoint, and IMDS", quick: true, env: []string{here}},
		{name: "static keys", env: plus(static, here)},
		{name: "key id without secret", quick: true, env: []string{here, static[0]}},
		{name: "secret without key id", env: []string{here, static[1]}},
		{name: "keys set and empty", env: []string{here, "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY="}},
		{name: "two tokens", quick: true, env: plus(temporary, here, "AWS_SECURITY_TOKEN="+securityToken)},
		{name: "the token by its old name", env: plus(temporary[:2], here, "AWS_SECURITY_TOKEN="+securityToken)},
		{name: "AWS_CREDENTIAL_EXPIRATION is past", env: plus(temporary, here, "AWS_CREDENTIAL_EXPIRATION=2020-01-01T00:00:00Z")},
		{name: "AWS_ACCESS_KEY and AWS_SECRET_KEY, IMDS", env: []string{"AWS_ACCESS_KEY=" + envKeyID, "AWS_SECRET_KEY=" + madeUp}},
		{name: "AMAZON_ACCESS_KEY_ID and its secret, IMDS", env: []string{"AMAZON_ACCESS_KEY_ID=" + envKeyID, "AMAZON_SECRET_ACCESS_KEY=" + madeUp}},
		{name: "~/.aws/credentials with [default]", env: []string{here}, files: map[string]string{home: section("default", fileID)}},
		{name: "~/.aws/config with keys", env: []string{here}, files: map[string]string{homeConfig: section("default", fileID)}},
		{name: "AWS_SHARED_CREDENTIALS_FILE with [default]", env: []string{here, custom}, files: inCustom},
		{name: "AWS_PROFILE=p, in the file", env: []string{here, custom, "AWS_PROFILE=p"}, files: inCustom},
		{name: "AWS_PROFILE=p, and static keys", env: plus(static, here, custom, "AWS_PROFILE=p"), files: inCustom},
		{name: "AWS_PROFILE=missing", quick: true, env: []string{here, "AWS_PROFILE=missing"}},
		{name: "AWS_PROFILE=missing, and static keys", env: plus(static, here, "AWS_PROFILE=missing")},
		{name: "AWS_PROFILE=q, which has a region only", env: []string{here, "AWS_PROFILE=q"}, files: map[string]string{homeConfig: "[profile q]\nregion = us-east-1\n"}},
		{name: "AWS_DEFAULT_PROFILE=p, IMDS", env: []string{custom, "AWS_DEFAULT_PROFILE=p"}, files: inCustom},
		{name: "a profile with a key id only", env: []string{here}, files: map[string]string{home: "[default]\naws_access_key_id = " + fileID + "\n"}},
		{name: "a profile that assumes a role", env: []string{here, "AWS_PROFILE=r"}, files: map[string]string{
			homeConfig: "[profile r]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = p\n", home: section("p", profileID),
		}},
	}
	for i := range list {
		list[i].serve = bothAnswer()
	}
	return append(list, condition{name: "nothing at all", quick: true})
}

// webIdentities are what is said of tokens for STS.
func webIdentities() []condition {
	const file = "AWS_WEB_IDENTITY_TOKEN_FILE="
	arn := "AWS_ROLE_ARN=arn:aws:iam::123456789012:role/w"
	token := map[string]string{"/tmp/identity": "made-up"}
	return []condition{
		{
			name: "web identity", env: []string{here, file + "/tmp/identity", arn}, files: token, serve: bothAnswer(),
			known: map[string]string{"java-v1": "it asks STS at its own address, which nobody can reach here, and goes on"},
		},
		{name: "web identity, its file is missing", env: []string{here, file + "/missing", arn}, serve: bothAnswer()},
		{name: "web identity without AWS_ROLE_ARN", env: []string{here, file + "/tmp/identity"}, files: token, serve: bothAnswer()},
		{name: "AWS_ROLE_ARN only", env: []string{here, arn}, serve: bothAnswer()},
	}
}

// containers are the states of the container endpoint and of the variables that lead there.
func containers() []condition {
	const lo = "http://127.0.0.1/creds"
	both := func(h http.HandlerFunc) map[string]http.HandlerFunc {
		return map[string]http.HandlerFunc{ecsAt: h, imdsAt: hostIMDS(nil)}
	}
	loopback := map[string]http.HandlerFunc{loAt: well, imdsAt: hostIMDS(nil)}
	refuses := answer(http.StatusBadRequest, `{"code": "InvalidIdInRequest", "message": "no such task"}`)
	broken := answer(http.StatusInternalServerError, `{"code": "InternalServerError", "message": "it is ill"}`)
	incomplete := answer(http.StatusOK, fmt.Sprintf(`{"AccessKeyId": %q, "SecretAccessKey": %q, "Expiration": %q}`, endpoint, madeUp, later()))
	ended := answer(http.StatusOK, strings.Replace(document(endpoint), later()[:4], "2020", 1))
	const full, file = fullVar + "=", token + "_FILE="
	return []condition{
		{name: "the container endpoint answers 400, IMDS is up", quick: true, env: []string{here}, serve: both(refuses)},
		{name: "the container endpoint answers 500, IMDS is up", env: []string{here}, serve: both(broken)},
		{name: "nobody at the container endpoint, IMDS is up", env: []string{here}, serve: alone(imdsAt, hostIMDS(nil))},
		{name: "the container endpoint answers with a page", env: []string{here}, serve: both(answer(http.StatusOK, "<html>It works!"))},
		{name: "the document has no token", env: []string{here}, serve: both(incomplete)},
		{name: "the document has ended", env: []string{here}, serve: both(ended)},
		{name: "a full URI on loopback", env: []string{full + lo}, serve: loopback},
		{name: "a full URI at 169.254.170.2, IMDS is up", env: []string{full + "http://169.254.170.2/creds"}, serve: bothAnswer()},
		{name: "a full URI at 169.254.170.23, IMDS is up", env: []string{full + "http://169.254.170.23/creds"}, serve: map[string]http.HandlerFunc{"169.254.170.23:80": well, imdsAt: hostIMDS(nil)}},
		{name: "a full URI at 10.99.0.1, IMDS is up", env: []string{full + "http://10.99.0.1/creds"}, serve: bothAnswer()},
		{name: "a relative URI, and a full one that leads nowhere", env: []string{here, full + "http://127.0.0.1:9/creds"}, serve: bothAnswer()},
		{name: "the relative URI is set and empty, IMDS is up", env: []string{relative + "="}, serve: bothAnswer()},
		{name: "the full URI is set and empty, IMDS is up", env: []string{full}, serve: bothAnswer()},
		{name: "the relative URI has no slash, IMDS is up", env: []string{relative + "=creds"}, serve: bothAnswer()},
		{name: "the token's file has a line break", env: []string{full + lo, file + "/tmp/token"}, files: map[string]string{"/tmp/token": "made-up\n"}, serve: loopback},
		{name: "the token's file is missing", env: []string{full + lo, file + "/missing"}, serve: loopback},
		{name: "HTTP_PROXY, a container endpoint", quick: true, env: []string{here, proxy}, serve: bothAnswer()},
		{name: "HTTP_PROXY, a full URI on loopback", env: []string{full + lo, proxy}, serve: loopback},
	}
}

// metadata are the states of the instance's metadata service.
func metadata() []condition {
	only := func(put http.HandlerFunc) map[string]http.HandlerFunc { return alone(imdsAt, hostIMDS(put)) }
	const off = "AWS_EC2_METADATA_DISABLED="
	status := func(code int) http.HandlerFunc { return answer(code, http.StatusText(code)) }
	required := func(w http.ResponseWriter, r *http.Request) { // the hop limit loses the token, and version 1 is not allowed
		if r.Method == http.MethodPut {
			hang(w, r)
		}
		w.WriteHeader(http.StatusUnauthorized)
	}
	return []condition{
		{name: "IMDS", serve: only(nil)},
		{name: "IMDS, and " + off + "true", env: []string{off + "true"}, serve: only(nil)},
		{name: "IMDS, and " + off + "1", quick: true, env: []string{off + "1"}, serve: only(nil)},
		{name: "IMDS, and " + off + "false", env: []string{off + "false"}, serve: only(nil)},
		{name: "IMDS refuses the token with 403, version 1 is allowed", env: nil, serve: only(status(http.StatusForbidden))},
		{name: "the same, and AWS_EC2_METADATA_V1_DISABLED=true", env: []string{"AWS_EC2_METADATA_V1_DISABLED=true"}, serve: only(status(http.StatusForbidden)), known: map[string]string{
			"boto3-debian": "it is too old, 1.26, to know the variable",
		}},
		{name: "IMDS answers the token with 400", env: nil, serve: only(status(http.StatusBadRequest))},
		{name: "IMDS answers the token with 500", env: nil, serve: only(status(http.StatusInternalServerError))},
		{name: "the hop limit is 1, version 1 is allowed", env: nil, serve: only(hang)},
		{name: "the hop limit is 1, tokens are required", env: nil, serve: alone(imdsAt, required)},
		{name: "IMDS requires tokens", quick: true, serve: alone(imdsAt, tokensRequired)},
		{name: "IMDS is switched off", env: nil, serve: alone(imdsAt, status(http.StatusForbidden))},
		{name: "the instance has no role", env: nil, serve: alone(imdsAt, noRole)},
		{name: "HTTP_PROXY, IMDS", env: []string{proxy}, serve: only(nil)},
		{name: "the mode ipv6 in small letters", env: []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=ipv6"}, serve: map[string]http.HandlerFunc{
			imdsAt: hostIMDS(nil), "[fd00:ec2::254]:80": hostIMDS(nil),
		}},
	}
}

// tokensRequired is a metadata service that turns version 1 away.
func tokensRequired(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && r.Header.Get("X-Aws-Ec2-Metadata-Token") == "" {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	hostIMDS(nil)(w, r)
}

// noRole is a metadata service of an instance without a profile.
func noRole(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		hostIMDS(nil)(w, r)
		return
	}
	http.NotFound(w, r)
}

// roles are containers of taskrole. Their way to AWS is not used: the services are in the container.
func roles() []condition {
	var direct []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"} {
		direct = append(direct, "--unset="+name)
	}
	return []condition{
		{name: "a role of taskrole", quick: true, role: "reader", env: direct},
		{name: "a role of taskrole, at the address of IMDS", role: "reader", env: append(direct, "--unset="+relative)},
		{name: "a role of taskrole without IMDS, and no variable", role: "ecs-only", env: append(direct, "--unset="+relative)},
		{name: "a role of taskrole by a full URI", role: "full", env: direct},
	}
}
