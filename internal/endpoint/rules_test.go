package endpoint_test

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/container"
	"taskrole/internal/endpoint"
	"taskrole/internal/fault"
	"taskrole/internal/secret"
)

// The rules of the SDK contract, as far as they concern the container endpoint and the instance metadata service.

func TestR1AnswersFromMemoryAtOnce(t *testing.T) {
	w := newWorld(t, v1)
	var worst time.Duration
	for range 500 {
		for _, u := range []string{credsURL, podURL, rolesURL, rolesURL + "task-app"} {
			start := time.Now()
			if a := w.do(http.MethodGet, u); a.status != http.StatusOK {
				t.Fatalf("%s: %d", u, a.status)
			}
			worst = max(worst, time.Since(start))
		}
	}
	if worst > 250*time.Millisecond {
		t.Errorf("the slowest of 2000 answers took %s, want less than 250 ms", worst)
	}
}

func TestR2NotReadyIsAFast503InEveryDialect(t *testing.T) {
	w := newWorld(t, v1)
	w.fail(fault.New(fault.CredentialsNotReady, "the first credentials are not there yet", "try again in a moment"))
	for _, u := range []string{credsURL, rolesURL + "task-app", imdsURL + "/latest/meta-data/iam/info"} {
		start := time.Now()
		a := w.do(http.MethodGet, u)
		if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "not there yet") || time.Since(start) > time.Second {
			t.Errorf("%s: %d %q after %s", u, a.status, a.body, time.Since(start))
		}
	}
}

func TestR3NeverRedirectsAndTakesUntidyPaths(t *testing.T) {
	w := newWorld(t, v1)
	for path, want := range map[string]int{
		"/v2/credentials/app": 200, "//v2/credentials/app": 200, "/v2//credentials///app": 200, "/v2/credentials/app/": 200,
		"/v2/credentials/app?x=/../": 200, "/v2/credentials": 404, "/v2/credentials/": 404, "/v2/credentials/a/b": 404,
		"/v2/credentials/../credentials/app": 404, "/v2/./credentials/app": 404, "/V2/credentials/app": 404, "/v2": 404,
	} {
		if a := w.do(http.MethodGet, ecsURL+path); a.status != want {
			t.Errorf("ECS %s: %d, want %d", path, a.status, want)
		}
	}
	for path, want := range map[string]int{
		"/latest/meta-data/iam/security-credentials": 200, "/latest/meta-data/iam/security-credentials/": 200,
		"//latest/meta-data/iam/security-credentials/task-app": 200, "/latest/meta-data/iam/security-credentials/task-app/": 200,
		"/latest//meta-data/placement/region/": 200, "/latest/meta-data/placement/region": 200, "/latest": 200, "/latest/": 200, "/": 200,
		"/latest/meta-data/./placement/region": 404, "/latest/meta-data/iam/../placement/region": 404, "/latest/user-data": 404,
		"/latest/dynamic/instance-identity/document/": 200,
	} {
		if a := w.do(http.MethodGet, imdsURL+path); a.status != want {
			t.Errorf("IMDS %s: %d, want %d", path, a.status, want)
		}
	}
	if a := w.do(http.MethodPut, imdsURL+"//latest/api/token/", ttl, "60"); a.status != http.StatusOK {
		t.Errorf("PUT //latest/api/token/: %d", a.status)
	}
}

func TestR4ListingIsOneNameWithoutNewline(t *testing.T) {
	w := newWorld(t, nil)
	for _, u := range []string{rolesURL, strings.TrimSuffix(rolesURL, "/"), strings.Replace(rolesURL, imdsURL, imds6URL, 1)} {
		a := w.get(u)
		if a.status != http.StatusOK || a.body != "task-app" || a.header.Get("Content-Type") != "text/plain" {
			t.Errorf("%s: %d %q %v", u, a.status, a.body, a.header)
		}
	}
}

func TestR5IMDSDocumentIsComplete(t *testing.T) {
	w := newWorld(t, nil)
	a := w.get(rolesURL + "task-app")
	var got map[string]string
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	if _, err := time.Parse("2006-01-02T15:04:05Z", got["LastUpdated"]); err != nil {
		t.Error(err)
	}
	delete(got, "LastUpdated")
	want := map[string]string{
		"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "se/cret+key", "Token": "tok<en&==",
		"Expiration": w.creds.Expires.Format("2006-01-02T15:04:05Z"), "AccountId": "123456789012",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
}

func TestR5NoKeysInErrors(t *testing.T) {
	w := newWorld(t, v1)
	w.mu.Lock()
	w.err = fault.New(fault.CredentialsExpired, "expired", "") // with the keys still there
	w.mu.Unlock()
	for _, u := range []string{credsURL, rolesURL + "task-app"} {
		if a := w.do(http.MethodGet, u); a.status < 400 || strings.Contains(a.body, "AccessKeyId") || strings.Contains(a.body, "cret") {
			t.Errorf("%s: %d %s", u, a.status, a.body)
		}
	}
}

func TestR6ContainerDocumentIsComplete(t *testing.T) {
	w := newWorld(t, nil)
	a := w.do(http.MethodGet, credsURL)
	var got map[string]string
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	want := map[string]string{
		"RoleArn": theRole.String(), "AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "se/cret+key", "Token": "tok<en&==",
		"Expiration": w.creds.Expires.Format("2006-01-02T15:04:05Z"), "AccountId": "123456789012",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
	for name, change := range map[string]func(*secret.Credentials){
		"without token":  func(c *secret.Credentials) { c.SessionToken = secret.Value{} },
		"without expiry": func(c *secret.Credentials) { c.Expires = time.Time{} },
		"expired":        func(c *secret.Credentials) { c.Expires = time.Now().Add(-time.Second) },
	} {
		w.mu.Lock()
		w.creds = theCredentials()
		change(&w.creds)
		w.mu.Unlock()
		if a := w.do(http.MethodGet, credsURL); a.status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

func TestR7ExpirationIsWholeSecondsUTC(t *testing.T) {
	w := newWorld(t, v1)
	w.mu.Lock()
	w.creds.Expires = time.Date(2099, 1, 2, 3, 4, 5, 678, time.FixedZone("x", 3600))
	w.mu.Unlock()
	for _, u := range []string{credsURL, rolesURL + "task-app"} {
		if a := w.do(http.MethodGet, u); !strings.Contains(a.body, `"2099-01-02T02:04:05Z"`) {
			t.Errorf("%s: %s", u, a.body)
		}
	}
}

func TestR9TokenStep(t *testing.T) {
	w := newWorld(t, nil)
	for _, v := range []string{"1", "300", "600", "21600"} {
		a := w.do(http.MethodPut, tokenURL, ttl, v)
		if a.status != http.StatusOK || a.header.Get(ttl) != v || len(a.body) < 40 || strings.TrimSpace(a.body) != a.body ||
			a.header.Get("Content-Type") != "text/plain" {
			t.Errorf("TTL %s: %d %q %v", v, a.status, a.body, a.header)
		}
		if g := w.do(http.MethodGet, rolesURL, tokenHdr, a.body); g.status != http.StatusOK {
			t.Errorf("TTL %s: the token is not taken: %d", v, g.status)
		}
	}
	for _, v := range []string{"", "0", "-1", "21601", "65536", "1e3", "x", "60.0", "99999999999999999999", "+60", " "} {
		if a := w.do(http.MethodPut, tokenURL, ttl, v); a.status != http.StatusBadRequest || !strings.Contains(a.body, "400 - Bad Request") {
			t.Errorf("TTL %q: %d %s", v, a.status, a.body)
		}
	}
	if a := w.do(http.MethodPut, tokenURL); a.status != http.StatusBadRequest {
		t.Errorf("no TTL: %d", a.status)
	}
	if a := w.do(http.MethodPut, tokenURL, ttl, "60", ttl, "60"); a.status != http.StatusBadRequest {
		t.Errorf("two TTLs: %d", a.status)
	}
	if a := w.do(http.MethodPut, tokenURL, ttl, "60", "X-Forwarded-For", "10.0.0.1"); a.status != http.StatusForbidden || len(a.header.Get(ttl)) > 0 {
		t.Errorf("through a proxy: %d %s", a.status, a.body)
	}
	for _, m := range []string{http.MethodPost, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
		if a := w.do(m, tokenURL, ttl, "60"); a.status != http.StatusMethodNotAllowed {
			t.Errorf("%s token: %d", m, a.status)
		}
	}
	if a := w.get(tokenURL); a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != "PUT" {
		t.Errorf("GET token: %d %v", a.status, a.header)
	}
}

func TestR10TokensSurviveARestart(t *testing.T) {
	key := endpoint.NewTokenKey()
	token := newWorld(t, func(o *endpoint.Options) { o.Tokens = key }).token()
	kept, err := endpoint.FromSecret(secret.New(key.Secret().Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	after := newWorld(t, func(o *endpoint.Options) { o.Tokens = kept })
	if a := after.do(http.MethodGet, rolesURL, tokenHdr, token); a.status != http.StatusOK {
		t.Errorf("after a restart with the same key: %d", a.status)
	}
	if _, err := endpoint.FromSecret(secret.New("short")); err == nil {
		t.Error("a short key is taken")
	}
}

func TestR11BadTokenIs401BeforeRouting(t *testing.T) {
	for _, mode := range []endpoint.Mode{"", endpoint.V2Only, endpoint.V1AndV2} {
		w := newWorld(t, func(o *endpoint.Options) { o.IMDS = mode })
		for _, path := range []string{"/", "/nowhere", "/latest/meta-data/iam/security-credentials/", "/latest/api/token"} {
			for _, bad := range []string{"INVALID", "", strings.Repeat("A", 64), w.token() + "A"} {
				a := w.do(http.MethodGet, imdsURL+path, tokenHdr, bad)
				if a.status != http.StatusUnauthorized || !strings.Contains(a.body, "401 - Unauthorized") {
					t.Errorf("mode %q, %s with token %q: %d", mode, path, bad, a.status)
				}
			}
		}
		want := http.StatusUnauthorized
		if mode == endpoint.V1AndV2 {
			want = http.StatusOK
		}
		if a := w.do(http.MethodGet, imdsURL+"/"); a.status != want {
			t.Errorf("mode %q without a token: %d, want %d", mode, a.status, want)
		}
		if a := w.get(imdsURL + "/"); a.status != http.StatusOK || !strings.HasSuffix(a.body, "\n2024-04-11\nlatest") {
			t.Errorf("mode %q, / with a token: %d %q", mode, a.status, a.body)
		}
	}
}

func TestR12ExtendedCredentialsAreNotFound(t *testing.T) {
	w := newWorld(t, nil)
	for _, rest := range []string{"", "/", "/task-app"} {
		a := w.get(imdsURL + "/latest/meta-data/iam/security-credentials-extended" + rest)
		if a.status != http.StatusNotFound || !strings.Contains(a.body, "<title>404 - Not Found</title>") || a.header.Get("Content-Type") != "text/html" {
			t.Errorf("%q: %d %s", rest, a.status, a.body)
		}
	}
}

func TestR13ContainerErrorsAreJSON(t *testing.T) {
	w := newWorld(t, nil)
	denied := fault.New(fault.STSDenied, `AWS refuses the role "x"`, "mend the trust policy")
	for name, tc := range map[string]struct {
		ask           func() answer
		status        int
		code, message string
	}{
		"empty_uri": {
			func() answer { return w.do(http.MethodGet, ecsURL) }, 400, "empty-uri",
			"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set but empty: do not set it yourself; taskrole sets it to /v2/credentials/app",
		},
		"unknown_path": {
			func() answer { return w.do(http.MethodGet, ecsURL+"/v4/x") }, 404, "not-found",
			`nothing is served at "/v4/x": the credentials of this container are at /v2/credentials/app`,
		},
		"method": {
			func() answer { return w.do(http.MethodPost, credsURL) }, 405, "method-not-allowed",
			`credentials are asked for with GET, not with "POST"`,
		},
		"pod_identity": {
			func() answer { return w.do(http.MethodGet, "http://169.254.170.23/v2/credentials/app") }, 404, "not-found",
			`nothing is served at "/v2/credentials/app": the credentials of this container are at /v1/credentials`,
		},
		"denied": {
			func() answer { w.fail(denied); return w.do(http.MethodGet, credsURL) }, 403, "sts-denied",
			`AWS refuses the role "x": mend the trust policy`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := tc.ask()
			var got map[string]string
			if err := json.Unmarshal([]byte(a.body), &got); err != nil {
				t.Fatalf("%v: %s", err, a.body)
			}
			want := map[string]string{"code": tc.code, "Code": tc.code, "message": tc.message, "Message": tc.message}
			if diff := cmp.Diff(want, got); diff != "" || a.status != tc.status || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("%d %v (-want +got):\n%s", a.status, a.header, diff)
			}
		})
	}
}

func TestR14DialectsAlwaysAgree(t *testing.T) {
	w := newWorld(t, v1)
	key := func(u string) string {
		var d struct {
			AccessKeyID string `json:"AccessKeyId"`
		}
		a := w.do(http.MethodGet, u)
		_ = json.Unmarshal([]byte(a.body), &d)
		return strconv.Itoa(a.status) + " " + d.AccessKeyID
	}
	all := func() []string {
		return []string{key(credsURL), key(podURL), key(rolesURL + "task-app"), key(imds6URL + "/latest/meta-data/iam/security-credentials/task-app")}
	}
	for i, step := range []struct {
		change func()
		want   string
	}{
		{func() {}, "200 ASIAEXAMPLE"},
		{func() { w.mu.Lock(); w.creds.AccessKeyID = "ASIANEXT"; w.mu.Unlock() }, "200 ASIANEXT"},
		{func() { w.fail(fault.New(fault.CredentialsExpired, "expired", "")) }, "503 "},
		{func() { w.fail(fault.New(fault.STSDenied, "denied", "")) }, "403 "},
		{func() { w.refuse(fault.New(fault.NotThisContainer, "not you", "")) }, "404 "},
	} {
		step.change()
		if diff := cmp.Diff([]string{step.want, step.want, step.want, step.want}, all()); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", i, diff)
		}
	}
}

func TestR15AnyRoleNameIsServed(t *testing.T) {
	w := newWorld(t, v1)
	for _, u := range []string{rolesURL + "task-app", rolesURL + "app", rolesURL + "old-role-of-the-image", ecsURL + "/v2/credentials/old", credsURL} {
		if a := w.do(http.MethodGet, u); a.status != http.StatusOK || !strings.Contains(a.body, "ASIAEXAMPLE") {
			t.Errorf("%s: %d", u, a.status)
		}
	}
	if a := w.do(http.MethodGet, rolesURL+"a/b"); a.status != http.StatusNotFound {
		t.Errorf("two names: %d", a.status)
	}
}

func TestR16PlainHTTPWithLengthAndWithoutCompression(t *testing.T) {
	w := newWorld(t, v1)
	for _, u := range []string{credsURL, ecsURL, ecsURL + "/x", podURL, fullURL, fullURL + "/x", rolesURL, rolesURL + "task-app", imdsURL + "/x", imdsURL + "/"} {
		get := w.do(http.MethodGet, u, "Accept-Encoding", "gzip, br")
		head := w.do(http.MethodHead, u, "Accept-Encoding", "gzip")
		if get.header.Get("Content-Length") != strconv.Itoa(len(get.body)) || get.header.Get("Content-Encoding") != "" || len(get.body) >= 10_000 {
			t.Errorf("GET %s: %v with %d bytes", u, get.header, len(get.body))
		}
		get.header.Del("Date")
		head.header.Del("Date")
		if diff := cmp.Diff(get.header, head.header); diff != "" || head.status != get.status || head.body != "" {
			t.Errorf("HEAD %s differs from GET: %d %q %s", u, head.status, head.body, diff)
		}
	}
	w.mu.Lock()
	w.creds.SessionToken = secret.New(strings.Repeat("x", 10_000))
	w.mu.Unlock()
	if a := w.do(http.MethodGet, credsURL); a.status != http.StatusInternalServerError || len(a.body) > 1000 {
		t.Errorf("a token of 10,000 bytes: %d, %d bytes", a.status, len(a.body))
	}
}

func TestTokenExpiresAfterItsTTLAndBelongsToOneContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := endpoint.NewTokenKey()
		token := key.Mint(theID, time.Now().Add(5*time.Minute))
		time.Sleep(299 * time.Second)
		if !key.Valid(theID, token, time.Now()) {
			t.Error("dead before its time")
		}
		if key.Valid(container.ID("other"), token, time.Now()) || endpoint.NewTokenKey().Valid(theID, token, time.Now()) {
			t.Error("valid for another container or with another key")
		}
		time.Sleep(time.Second)
		if key.Valid(theID, token, time.Now()) {
			t.Error("alive after its time")
		}
	})
}

func TestMetadataTree(t *testing.T) {
	w := newWorld(t, v1)
	for path, want := range map[string]string{
		"/latest": "dynamic\nmeta-data", "/latest/meta-data": "iam/\ninstance-id\nplacement/\nservices/",
		"/latest/meta-data/iam/": "info\nsecurity-credentials/", "/latest/meta-data/placement": "region",
		"/latest/meta-data/services/": "domain\npartition", "/latest/dynamic": "instance-identity/",
		"/latest/meta-data/instance-id": "i-0", "/latest/meta-data/placement/region": "eu-west-1",
		"/latest/meta-data/services/domain": "amazonaws.com", "/latest/meta-data/services/partition": "aws",
		"/latest/dynamic/instance-identity/document": "{\n  \"accountId\": \"123456789012\",\n  \"architecture\": null,\n  \"availabilityZone\": null,\n  \"billingProducts\": null,\n  \"devpayProductCodes\": null,\n  \"marketplaceProductCodes\": null,\n  \"imageId\": null,\n  \"instanceId\": \"i-0\",\n  \"instanceType\": null,\n  \"kernelId\": null,\n  \"pendingTime\": null,\n  \"privateIp\": null,\n  \"ramdiskId\": null,\n  \"region\": \"eu-west-1\",\n  \"version\": \"2017-09-30\"\n}",
	} {
		if a := w.do(http.MethodGet, imdsURL+path); a.status != http.StatusOK || a.body != want {
			t.Errorf("%s: %d %q, want %q", path, a.status, a.body, want)
		}
	}
	for _, path := range []string{
		"/latest/meta-data/placement/availability-zone", "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
		"/latest/user-data", "/latest/meta-data/hostname", "/latest/meta-data/tags",
	} {
		if a := w.do(http.MethodGet, imdsURL+path); a.status != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", path, a.status)
		}
	}
	a := w.do(http.MethodGet, imdsURL+"/latest/meta-data/iam/info")
	if !strings.Contains(a.body, `"InstanceProfileArn": "arn:aws:iam::123456789012:instance-profile/task-app"`) || !strings.Contains(a.body, `"Code": "Success"`) {
		t.Errorf("iam/info: %s", a.body)
	}
	bare := newWorld(t, func(o *endpoint.Options) { o.IMDS, o.Region, o.Instance = endpoint.V1AndV2, "", nil })
	for _, path := range []string{"placement/region", "placement", "instance-id"} {
		if a := bare.do(http.MethodGet, imdsURL+"/latest/meta-data/"+path); a.status != http.StatusNotFound {
			t.Errorf("unknown %s: %d %q, want 404", path, a.status, a.body)
		}
	}
}

func TestOffIs403OnEverythingAndLeavesTheContainerEndpoint(t *testing.T) {
	w := newWorld(t, func(o *endpoint.Options) { o.IMDS = endpoint.Off })
	for _, path := range []string{"/", "/latest/api/token", "/latest/meta-data/iam/security-credentials/", "/x"} {
		for _, m := range []string{http.MethodGet, http.MethodPut, http.MethodPost} {
			if a := w.do(m, imdsURL+path, ttl, "60"); a.status != http.StatusForbidden {
				t.Errorf("%s %s: %d, want 403", m, path, a.status)
			}
		}
	}
	if a := w.do(http.MethodGet, credsURL); a.status != http.StatusOK {
		t.Errorf("container endpoint: %d", a.status)
	}
}

func TestBodiesAreMarshalledOnceForEachRotation(t *testing.T) {
	w := newWorld(t, v1)
	doc := rolesURL + "task-app"
	first := w.do(http.MethodGet, doc).body
	time.Sleep(1100 * time.Millisecond) // LastUpdated has seconds
	if again := w.do(http.MethodGet, doc).body; again != first {
		t.Errorf("marshalled anew without a rotation:\n%s\n%s", first, again)
	}
	w.mu.Lock()
	w.creds.SessionToken = secret.New("next")
	w.mu.Unlock()
	if next := w.do(http.MethodGet, doc).body; next == first || !strings.Contains(next, `"next"`) {
		t.Errorf("not marshalled anew after a rotation: %s", next)
	}
}
