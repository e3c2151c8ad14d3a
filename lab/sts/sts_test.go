package sts_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/go-cmp/cmp"

	"taskrole/lab/iam"
	"taskrole/lab/sts"
)

const (
	account = "123456789012"
	taskARN = "arn:aws:iam::123456789012:role/task"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// world is an account with a user, a host role and a task role, and a clock that stands still.
type world struct {
	*sts.Server

	account *iam.Account
	now     time.Time
	user    *iam.Credential
	host    *iam.Credential
	events  []iam.Event
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{now: noon}
	w.account = iam.NewAccount(account, func() time.Time { return w.now })
	all, err1 := iam.ParsePolicy(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`)
	trust, err2 := iam.ParseTrust(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":["sts:AssumeRole","sts:TagSession"],"Principal":{"AWS":"arn:aws:iam::123456789012:root"},
		 "Condition":{"ForAllValues:StringEquals":{"aws:TagKeys":["team","Cost"]}}}]}`)
	noTags, err3 := iam.ParseTrust(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{"AWS":"` + account + `"}}]}`)
	hostRole, err4 := w.account.AddRole(iam.Role{Name: "host", Policies: []iam.Document{all}})
	_, err5 := w.account.AddRole(iam.Role{Name: "task", Trust: trust, MaxSession: 2 * time.Hour, Policies: []iam.Document{all}})
	_, err6 := w.account.AddRole(iam.Role{Name: "no-tags", Trust: noTags})
	user, err7 := w.account.AddUser(iam.User{Name: "alice", Policies: []iam.Document{all}})
	shut, err8 := iam.ParseTrust(`{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"sts:AssumeRole","Principal":{"AWS":"` + account + `"}}]}`)
	_, err9 := w.account.AddRole(iam.Role{Name: "shut", Trust: shut})
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9); err != nil {
		tb.Fatal(err)
	}
	w.user, w.host = user, w.account.NewSession(hostRole, iam.SessionOptions{Name: "i-1", Life: 6 * time.Hour})
	w.Server = sts.New(sts.Options{
		Account: w.account, Region: "us-east-1", Disabled: []string{"me-south-1"}, Logger: slog.New(slog.DiscardHandler),
		After: func(e iam.Event) { w.events = append(w.events, e) },
	})
	return w
}

// call is one request that a test may spoil before it is signed and after.
type call struct {
	form     url.Values
	cred     *iam.Credential
	at       time.Time
	token    string // "-" for none
	region   string
	service  string
	unsigned bool
	after    func(*http.Request)
}

func form(kv ...string) url.Values {
	f := url.Values{"Version": {"2011-06-15"}}
	for i := 0; i < len(kv); i += 2 {
		f.Set(kv[i], kv[i+1])
	}
	return f
}

func assume(kv ...string) url.Values {
	f := form("Action", "AssumeRole", "RoleArn", taskARN, "RoleSessionName", "test")
	for i := 0; i < len(kv); i += 2 {
		f.Set(kv[i], kv[i+1])
	}
	return f
}

// do sends the call and returns the status and the body, request ids replaced.
func (w *world) do(tb testing.TB, c call) (int, string) {
	tb.Helper()
	body := c.form.Encode()
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, "http://lab.test/", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if !c.unsigned {
		sign(tb, r, body, c, w.user)
	}
	if c.after != nil {
		c.after(r)
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	id := rec.Header().Get("x-amzn-RequestId")
	if rec.Header().Get("Content-Type") != "text/xml" || !strings.Contains(rec.Body.String(), "<RequestId>"+id+"</RequestId>") {
		tb.Errorf("headers %v do not fit the body", rec.Header())
	}
	return rec.Code, strings.ReplaceAll(rec.Body.String(), id, "ID")
}

func sign(tb testing.TB, r *http.Request, body string, c call, user *iam.Credential) {
	tb.Helper()
	if c.cred == nil {
		c.cred = user
	}
	if c.at.IsZero() {
		c.at = noon
	}
	keys := aws.Credentials{AccessKeyID: c.cred.AccessKeyID, SecretAccessKey: c.cred.Secret.Reveal(), SessionToken: c.cred.Token.Reveal()}
	switch c.token {
	case "":
	case "-":
		keys.SessionToken = ""
	default:
		keys.SessionToken = c.token
	}
	if c.region == "" {
		c.region = "us-east-1"
	}
	if c.service == "" {
		c.service = "sts"
	}
	digest := sha256.Sum256([]byte(body))
	r.URL.Host = r.Host
	if err := v4.NewSigner().SignHTTP(context.Background(), keys, r, hex.EncodeToString(digest[:]), c.service, c.region, c.at); err != nil {
		tb.Fatal(err)
	}
}

// document is AWS's error, to the byte.
func document(code, message string) string {
	return fmt.Sprintf(`<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <Error>
    <Type>Sender</Type>
    <Code>%s</Code>
    <Message>%s</Message>
  </Error>
  <RequestId>ID</RequestId>
</ErrorResponse>
`, code, message)
}

func TestErrorsAreAWSBytes(t *testing.T) {
	const wrong = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
	identity := form("Action", "GetCallerIdentity")
	long := strings.Repeat("x", 65)
	w := newWorld(t)
	stranger := *w.user
	stranger.AccessKeyID = "AKIASTRANGER"
	expired := w.account.NewSession(w.account.Role(taskARN), iam.SessionOptions{Name: "gone", Life: -time.Second})
	for _, tc := range []struct {
		name          string
		call          call
		status        int
		code, message string
	}{
		{"unsigned", call{form: identity, unsigned: true}, 403, "MissingAuthenticationToken", "Request is missing Authentication Token"},
		{"unknown_key", call{form: identity, cred: &stranger}, 403, "InvalidClientTokenId", "The security token included in the request is invalid."},
		{"forgot_the_token", call{form: identity, cred: w.host, token: "-"}, 403, "InvalidClientTokenId", "The security token included in the request is invalid."},
		{"wrong_token", call{form: identity, cred: w.host, token: "x"}, 403, "InvalidClientTokenId", "The security token included in the request is invalid"},
		{"expired", call{form: identity, cred: expired}, 403, "ExpiredToken", "The security token included in the request is expired"},
		{"changed_body", call{form: identity, after: func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("Action=GetCallerIdentity&Version=x")) }}, 403, "SignatureDoesNotMatch", wrong},
		{"too_old", call{form: identity, at: noon.Add(-16 * time.Minute)}, 403, "SignatureDoesNotMatch", "Signature expired: 20261122T114400Z is now earlier than 20261122T114500Z (20261122T120000Z - 15 min.)"},
		{"too_early", call{form: identity, at: noon.Add(16 * time.Minute)}, 403, "SignatureDoesNotMatch", "Signature not yet current: 20261122T121600Z is still later than 20261122T121500Z (20261122T120000Z + 15 min.)"},
		{"other_region", call{form: identity, region: "eu-west-1"}, 403, "SignatureDoesNotMatch", "Credential should be scoped to a valid region. "},
		{"region_not_activated", call{form: identity, region: "me-south-1"}, 403, "RegionDisabledException", "STS is not activated in this region for account:123456789012. Your account administrator can activate STS in this region using the IAM Console."},
		{"other_service", call{form: identity, service: "s3"}, 403, "SignatureDoesNotMatch", "Credential should be scoped to correct service: &#39;sts&#39;. "},
		{"no_action", call{form: form()}, 400, "MissingAction", "Missing Action"},
		{"unknown_action", call{form: form("Action", "GetSessionToken")}, 400, "InvalidAction", "Could not find operation GetSessionToken for version 2011-06-15"},
		{"unknown_version", call{form: url.Values{"Action": {"AssumeRole"}, "Version": {"1"}}}, 400, "InvalidAction", "Could not find operation AssumeRole for version 1"},
		{"unknown_parameter", call{form: assume("SourceIdentity", "x")}, 400, "ValidationError", "the laboratory does not know the parameter &#34;SourceIdentity&#34;"},
		{"missing_role", call{form: assume("RoleArn", "arn:aws:iam::123456789012:role/none")}, 403, "AccessDenied", "User: arn:aws:iam::123456789012:user/alice is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::123456789012:role/none"},
		{"malformed_arn", call{form: assume("RoleArn", "arn:aws:s3:::bucket-of-mine")}, 400, "ValidationError", "arn:aws:s3:::bucket-of-mine is invalid"},
		{"session_name", call{form: assume("RoleSessionName", "a:b")}, 400, "ValidationError", `1 validation error detected: Value &#39;a:b&#39; at &#39;roleSessionName&#39; failed to satisfy constraint: Member must satisfy regular expression pattern: [\w+=,.@-]*`},
		{"several", call{form: form("Action", "AssumeRole", "RoleSessionName", long, "DurationSeconds", "1")}, 400, "ValidationError", "3 validation errors detected: Value at &#39;roleArn&#39; failed to satisfy constraint: Member must not be null; Value &#39;" + long + "&#39; at &#39;roleSessionName&#39; failed to satisfy constraint: Member must have length less than or equal to 64; Value &#39;1&#39; at &#39;durationSeconds&#39; failed to satisfy constraint: Member must have value greater than or equal to 900"},
		{"thirteen_hours", call{form: assume("DurationSeconds", "46800")}, 400, "ValidationError", "1 validation error detected: Value &#39;46800&#39; at &#39;durationSeconds&#39; failed to satisfy constraint: Member must have value less than or equal to 43200"},
		{"more_than_the_role_allows", call{form: assume("DurationSeconds", "7201")}, 400, "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."},
		{"chained", call{form: assume("DurationSeconds", "3601"), cred: w.host}, 400, "ValidationError", "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining."},
		{"bad_policy", call{form: assume("Policy", "{}")}, 400, "MalformedPolicyDocument", "Syntax errors in policy."},
		{"packed", call{form: assume("Policy", strings.Repeat(" ", 2040), "Tags.member.1.Key", "team", "Tags.member.1.Value", "blue-team")}, 400, "PackedPolicyTooLarge", "Packed policy consumes 101% of allotted space, please use smaller policy."},
		{"tag_key_not_allowed", call{form: assume("Tags.member.1.Key", "x", "Tags.member.1.Value", "y")}, 403, "AccessDenied", "User: arn:aws:iam::123456789012:user/alice is not authorized to perform: sts:AssumeRole on resource: " + taskARN},
		{"no_tag_session", call{form: assume("RoleArn", "arn:aws:iam::123456789012:role/no-tags", "Tags.member.1.Key", "team", "Tags.member.1.Value", "y")}, 403, "AccessDenied", "User: arn:aws:iam::123456789012:user/alice is not authorized to perform: sts:TagSession on resource: arn:aws:iam::123456789012:role/no-tags"},
		{"explicit_deny", call{form: assume("RoleArn", "arn:aws:iam::123456789012:role/shut")}, 403, "AccessDenied", "User: arn:aws:iam::123456789012:user/alice is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::123456789012:role/shut with an explicit deny in a resource-based policy"},
		{"tag_twice", call{form: assume("Tags.member.1.Key", "team", "Tags.member.2.Key", "Team")}, 400, "InvalidParameterValue", "Duplicate tag keys found. Please note that Tag keys are case insensitive."},
		{"transitive_without_tag", call{form: assume("TransitiveTagKeys.member.1", "team")}, 400, "InvalidParameterValue", "The specified transitive tag key must be included in the requested tags."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status, body := w.do(t, tc.call)
			if diff := cmp.Diff(document(tc.code, tc.message), body); status != tc.status || diff != "" {
				t.Errorf("status %d, want %d; body (-want +got):\n%s", status, tc.status, diff)
			}
			if e := w.events[len(w.events)-1]; e.Status != tc.status || e.Code != tc.code {
				t.Errorf("audit trail says %+v", e)
			}
		})
	}
}

// The size is AWS's, from a log of aws-azure-login: with another layout it would not be.
func TestErrorHasTheSizeAWSLogged(t *testing.T) {
	w := newWorld(t)
	_, body := w.do(t, call{form: form("Action", "GetCallerIdentity"), cred: w.host, token: "x"})
	if got := len(body) - len("ID") + 36; got != 305 {
		t.Errorf("%d bytes, want 305", got)
	}
}

func TestGetCallerIdentity(t *testing.T) {
	w := newWorld(t)
	status, body := w.do(t, call{form: form("Action", "GetCallerIdentity"), cred: w.host})
	want := `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <GetCallerIdentityResult>
    <Arn>arn:aws:sts::123456789012:assumed-role/host/i-1</Arn>
    <UserId>` + w.host.Principal.UserID + `</UserId>
    <Account>123456789012</Account>
  </GetCallerIdentityResult>
  <ResponseMetadata>
    <RequestId>ID</RequestId>
  </ResponseMetadata>
</GetCallerIdentityResponse>
`
	if diff := cmp.Diff(want, body); status != http.StatusOK || diff != "" {
		t.Errorf("status %d; body (-want +got):\n%s", status, diff)
	}
}

// assumed is what a successful AssumeRole says.
type assumed struct {
	ARN         string `xml:"AssumeRoleResult>AssumedRoleUser>Arn"`
	AccessKeyID string `xml:"AssumeRoleResult>Credentials>AccessKeyId"`
	Token       string `xml:"AssumeRoleResult>Credentials>SessionToken"`
	Expiration  string `xml:"AssumeRoleResult>Credentials>Expiration"`
	Packed      int    `xml:"AssumeRoleResult>PackedPolicySize"`
}

func (w *world) assume(tb testing.TB, c call) (assumed, *iam.Credential) {
	tb.Helper()
	status, body := w.do(tb, c)
	if status != http.StatusOK {
		tb.Fatalf("AssumeRole: %d %s", status, body)
	}
	var a assumed
	if err := xml.Unmarshal([]byte(body), &a); err != nil {
		tb.Fatal(err)
	}
	cred, err := w.account.Resolve(a.AccessKeyID, a.Token)
	if err != nil {
		tb.Fatal(err)
	}
	return a, cred
}

func TestAssumeRoleGivesASession(t *testing.T) {
	w := newWorld(t)
	a, cred := w.assume(t, call{form: assume("DurationSeconds", "7200")})
	if a.ARN != "arn:aws:sts::123456789012:assumed-role/task/test" || a.Expiration != "2026-11-22T14:00:00Z" || !strings.HasPrefix(a.AccessKeyID, "ASIALAB") {
		t.Errorf("answer = %+v", a)
	}
	if cred.Principal.ARN != a.ARN {
		t.Errorf("session = %+v", cred.Principal)
	}
	if e := w.events[0]; e.Action != "AssumeRole" || e.Principal != "arn:aws:iam::123456789012:user/alice" || e.Status != http.StatusOK {
		t.Errorf("audit trail says %+v", e)
	}
}

func TestSessionPolicyAndTags(t *testing.T) {
	w := newWorld(t)
	a, cred := w.assume(t, call{form: assume(
		"Policy", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*","sts:*"],"Resource":"*","Condition":{"StringEquals":{"aws:PrincipalTag/TEAM":"blue"}}}]}`,
		"Tags.member.1.Key", "team", "Tags.member.1.Value", "blue", "Tags.member.2.Key", "Cost", "Tags.member.2.Value", "1",
		"TransitiveTagKeys.member.1", "Team")})
	if a.Packed < 5 || a.Packed > 15 {
		t.Errorf("PackedPolicySize = %d", a.Packed)
	}
	if err := cred.Principal.Authorize(iam.Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::b/k"}); err != nil {
		t.Error(err)
	}
	if err := cred.Principal.Authorize(iam.Request{Action: "ec2:RunInstances", Resource: "*"}); err == nil {
		t.Error("the session policy does not narrow")
	}
	_, next := w.assume(t, call{form: assume(), cred: cred})
	if diff := cmp.Diff(map[string]string{"team": "blue"}, next.Principal.Tags); diff != "" {
		t.Errorf("inherited tags (-want +got):\n%s", diff)
	}
	status, body := w.do(t, call{form: assume("Tags.member.1.Key", "TEAM", "Tags.member.1.Value", "red"), cred: next})
	if status != http.StatusBadRequest || !strings.Contains(body, "conflicts with a transitive tag key") {
		t.Errorf("a transitive tag was changed: %d %s", status, body)
	}
}

func TestPresignedGetCallerIdentity(t *testing.T) {
	w := newWorld(t)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://lab.test/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires=60", nil)
	r.URL.Host = r.Host
	keys := aws.Credentials{AccessKeyID: w.host.AccessKeyID, SecretAccessKey: w.host.Secret.Reveal(), SessionToken: w.host.Token.Reveal()}
	digest := sha256.Sum256(nil)
	signed, _, err := v4.NewSigner().PresignHTTP(t.Context(), keys, r, hex.EncodeToString(digest[:]), "sts", "us-east-1", noon)
	if err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration]int{0: http.StatusOK, time.Hour: http.StatusForbidden} {
		w.now = noon.Add(after)
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, signed, nil))
		if rec.Code != want {
			t.Errorf("after %v: %d %s, want %d", after, rec.Code, rec.Body, want)
		}
	}
}

func TestBeforeAnswersInsteadOfTheService(t *testing.T) {
	w := newWorld(t)
	server := sts.New(sts.Options{
		Account: w.account, Region: "us-east-1", Logger: slog.New(slog.DiscardHandler),
		Before: func(_ context.Context, action string) *sts.Error {
			if action == "AssumeRole" {
				return sts.Throttled()
			}
			return nil
		},
	})
	w.Server = server
	status, body := w.do(t, call{form: assume()})
	if diff := cmp.Diff(document("Throttling", "Rate exceeded"), body); status != http.StatusBadRequest || diff != "" {
		t.Errorf("status %d; body (-want +got):\n%s", status, diff)
	}
	if status, _ := w.do(t, call{form: form("Action", "GetCallerIdentity")}); status != http.StatusOK {
		t.Errorf("another action: %d, want 200", status)
	}
}

var wellFormed = regexp.MustCompile(`(?s)^<(ErrorResponse|AssumeRoleResponse|GetCallerIdentityResponse) xmlns="[^"]+">\n.*\n</(ErrorResponse|AssumeRoleResponse|GetCallerIdentityResponse)>\n$`)

// FuzzQuery: whatever is signed and sent, the answer is a document and never a fault of the service, and a session is
// only given of the role that was asked for.
func FuzzQuery(f *testing.F) {
	f.Add(assume("DurationSeconds", "900").Encode())
	f.Add(assume("Policy", "{}", "Tags.member.1.Key", "team", "Tags.member.1.Value", "x").Encode())
	f.Add("Action=GetCallerIdentity&Version=2011-06-15")
	f.Add("Action=AssumeRole&Version=2011-06-15&Action=GetCallerIdentity&%zz=&Tags.member.0.Key=&;=")
	f.Fuzz(func(t *testing.T, body string) {
		w := newWorld(t)
		r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, "http://lab.test/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		sign(t, r, body, call{}, w.user)
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		if rec.Code >= 500 || !wellFormed.MatchString(rec.Body.String()) {
			t.Fatalf("%d %q", rec.Code, rec.Body)
		}
		var document struct{ XMLName xml.Name }
		if err := xml.Unmarshal(rec.Body.Bytes(), &document); err != nil {
			t.Fatalf("%v in %q", err, rec.Body)
		}
		var a assumed
		if xml.Unmarshal(rec.Body.Bytes(), &a) == nil && a.AccessKeyID != "" {
			f, err := url.ParseQuery(body)
			if name := f.Get("RoleArn")[strings.LastIndex(f.Get("RoleArn"), "/")+1:]; err != nil || !strings.Contains(a.ARN, ":assumed-role/"+name+"/") {
				t.Errorf("%q gave %s", body, a.ARN)
			}
		}
	})
}
