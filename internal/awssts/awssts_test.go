package awssts_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/arn"
	"taskrole/internal/awssts"
	"taskrole/internal/fault"
	"taskrole/internal/grant"
)

// stsServer answers one action after the other and remembers what it was asked.
type stsServer struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []url.Values
	signed []string
	answer func(n int, q url.Values) (status int, body string)
}

func newSTS(t *testing.T, answer func(n int, q url.Values) (int, string)) *stsServer {
	t.Helper()
	for k, v := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_ACCESS_KEY_ID": "AKIAHOST", "AWS_SECRET_ACCESS_KEY": "host-secret",
		"AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_CA_BUNDLE": "",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "",
		"HTTP_PROXY": "", "HTTPS_PROXY": "", "http_proxy": "", "https_proxy": "",
	} {
		t.Setenv(k, v)
	}
	s := &stsServer{answer: answer}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		s.mu.Lock()
		s.asked = append(s.asked, r.PostForm)
		s.signed = append(s.signed, r.Header.Get("Authorization"))
		n := len(s.asked)
		s.mu.Unlock()
		status, body := s.answer(n, r.PostForm)
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *stsServer) client(t *testing.T) *awssts.Client {
	t.Helper()
	c, err := awssts.New(t.Context(), awssts.Options{Region: "eu-west-1", Endpoint: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const identityXML = `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
<Arn>%s</Arn><UserId>X</UserId><Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`

const assumedXML = `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>ASIANEW</AccessKeyId><SecretAccessKey>new-secret</SecretAccessKey><SessionToken>new-token</SessionToken>
<Expiration>2030-01-02T03:04:05Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`

func errorXML(code, message string) string {
	return `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>` + code +
		`</Code><Message>` + message + `</Message></Error><RequestId>r</RequestId></ErrorResponse>`
}

func theGrant() grant.Grant {
	return grant.Grant{Role: arn.Role{Partition: "aws", Account: "123456789012", Path: "/team/", Name: "app"}, Session: "app-3f2a91", Duration: time.Hour}
}

func TestAssumeRoleSendsEverythingInTheGrant(t *testing.T) {
	s := newSTS(t, func(int, url.Values) (int, string) { return 200, assumedXML })
	g := theGrant()
	g.ExternalID, g.Policy, g.Region = "ext", `{"Version":"2012-10-17"}`, "ap-south-1"
	g.Duration, g.Tags = 30*time.Minute, map[string]string{"team": "a", "env": "b"}
	c, err := s.client(t).AssumeRole(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	want := url.Values{
		"Action": {"AssumeRole"}, "Version": {"2011-06-15"}, "RoleArn": {"arn:aws:iam::123456789012:role/team/app"},
		"RoleSessionName": {"app-3f2a91"}, "DurationSeconds": {"1800"}, "ExternalId": {"ext"}, "Policy": {`{"Version":"2012-10-17"}`},
		"Tags.member.1.Key": {"env"}, "Tags.member.1.Value": {"b"}, "Tags.member.2.Key": {"team"}, "Tags.member.2.Value": {"a"},
	}
	if diff := cmp.Diff(want, s.asked[0]); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if !strings.Contains(s.signed[0], "Credential=AKIAHOST/") || !strings.Contains(s.signed[0], "/ap-south-1/sts/") {
		t.Errorf("signed as %q, want the host's key and the grant's region", s.signed[0])
	}
	if c.AccessKeyID != "ASIANEW" || c.SecretAccessKey.Reveal() != "new-secret" || c.SessionToken.Reveal() != "new-token" ||
		!c.Expires.Equal(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)) || c.AccountID != "123456789012" ||
		c.RoleARN != g.Role.String() || !c.Complete() {
		t.Errorf("credentials: %+v", c)
	}
}

func TestRegionOfThePartitionWhereNobodyNamesOne(t *testing.T) {
	s := newSTS(t, func(int, url.Values) (int, string) { return 200, assumedXML })
	c, err := awssts.New(t.Context(), awssts.Options{Endpoint: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct{ partition, region string }{{"aws", "us-east-1"}, {"aws-cn", "cn-north-1"}, {"aws-us-gov", "us-gov-west-1"}} {
		g := theGrant()
		g.Role.Partition = want.partition
		if _, err := c.AssumeRole(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(s.signed[i], "/"+want.region+"/sts/") {
			t.Errorf("%s signed as %q, want %s", want.partition, s.signed[i], want.region)
		}
	}
}

func TestRoleChainingCapsTheDurationToOneHour(t *testing.T) {
	for host, want := range map[string]string{
		"arn:aws:sts::123456789012:assumed-role/ec2-instance-role/i-0": "3600",
		"arn:aws:iam::123456789012:user/deploy":                        "43200",
	} {
		s := newSTS(t, func(_ int, q url.Values) (int, string) {
			if q.Get("Action") == "GetCallerIdentity" {
				return 200, fmt.Sprintf(identityXML, host)
			}
			return 200, assumedXML
		})
		c, g := s.client(t), theGrant()
		g.Duration = 12 * time.Hour
		for range 2 {
			if _, err := c.AssumeRole(t.Context(), g); err != nil {
				t.Fatal(err)
			}
		}
		var actions []string
		for _, q := range s.asked {
			actions = append(actions, q.Get("Action")+q.Get("DurationSeconds"))
		}
		if diff := cmp.Diff([]string{"GetCallerIdentity", "AssumeRole" + want, "AssumeRole" + want}, actions); diff != "" {
			t.Errorf("%s (-want +got):\n%s", host, diff)
		}
	}
}

func TestWhatAWSSaysBecomesOneSentence(t *testing.T) {
	const denied = "User: arn:aws:sts::123456789012:assumed-role/ec2-instance-role/i-0 is not authorized to perform: " +
		"sts:AssumeRole on resource: arn:aws:iam::123456789012:role/team/app"
	for name, tc := range map[string]struct {
		status     int
		code, says string
		want       fault.Code
		what, hint string
		calls      int
	}{
		"denied": {
			403, "AccessDenied", denied, fault.STSDenied,
			"AWS refuses the role arn:aws:iam::123456789012:role/team/app: " + denied,
			"let its trust policy name arn:aws:iam::123456789012:role/ec2-instance-role, and let the agent's own role call sts:AssumeRole on it", 1,
		},
		"denied_without_words": {
			403, "AccessDenied", "", fault.STSDenied,
			"AWS refuses the role arn:aws:iam::123456789012:role/team/app: UnknownError",
			"let its trust policy name this host's own role, and let the agent's own role call sts:AssumeRole on it", 1,
		},
		"denied_explicitly": {
			403, "AccessDenied", denied + " with an explicit deny in a service control policy", fault.STSDenied, "",
			`no other policy can allow it again: except arn:aws:iam::123456789012:role/ec2-instance-role from the Deny; "taskrole roles --check" says more`, 1,
		},
		"tags_denied": {
			403, "AccessDenied", strings.Replace(denied, "sts:AssumeRole", "sts:TagSession", 1), fault.STSDenied, "",
			"let its trust policy allow arn:aws:iam::123456789012:role/ec2-instance-role sts:TagSession too, or take tags out of the configuration", 1,
		},
		"too_long": {
			400, "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.", fault.STSDenied, "",
			"lower duration of the role in the configuration, or raise the role's MaxSessionDuration in IAM", 1,
		},
		"validation": {
			400, "ValidationError", "1 validation error\ndetected.", fault.STSDenied,
			"AWS refuses the role arn:aws:iam::123456789012:role/team/app: ValidationError: 1 validation error detected", "", 1,
		},
		"packed":        {400, "PackedPolicyTooLarge", "Packed size 150%", fault.STSDenied, "", "", 1},
		"region":        {403, "RegionDisabledException", "STS is not activated", fault.STSDenied, "", "activate STS for the region in the account, or set another region", 1},
		"throttled":     {400, "Throttling", "Rate exceeded", fault.STSUnreachable, "STS is throttling this account: Rate exceeded", "", 3},
		"broken":        {503, "ServiceUnavailable", "busy", fault.STSUnreachable, "STS is broken at the moment: ServiceUnavailable: busy", "", 3},
		"expired_host":  {400, "ExpiredToken", "The security token included in the request is expired", fault.SourceUnavailable, "", "", 1},
		"unknown_key":   {403, "InvalidClientTokenId", "The security token included in the request is invalid.", fault.SourceUnavailable, "AWS does not accept this host's own credentials: The security token included in the request is invalid", "", 1},
		"clock_is_off":  {403, "SignatureDoesNotMatch", "Signature expired: 2020 is now earlier than 2021", fault.SourceUnavailable, "", "set this host's clock, and check its secret access key", -1},
		"long_and_wild": {403, "AccessDenied", "\x1f" + strings.Repeat("é", 2000), "", "", "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSTS(t, func(int, url.Values) (int, string) { return tc.status, errorXML(tc.code, tc.says) })
			_, err := s.client(t).AssumeRole(t.Context(), theGrant())
			f := fault.As(err)
			if tc.want != "" && f.Code != tc.want {
				t.Errorf("code %s, want %s: %v", f.Code, tc.want, err)
			}
			if tc.what != "" && f.What != tc.what {
				t.Errorf("sentence %q\nwant     %q", f.What, tc.what)
			}
			if tc.hint != "" && f.Hint != tc.hint {
				t.Errorf("hint %q\nwant %q", f.Hint, tc.hint)
			}
			if len(f.What) > 900 || strings.ContainsAny(err.Error(), "\n\x1f") || f.Err == nil {
				t.Errorf("sentence of %d bytes: %q, cause %v", len(f.What), f.What, f.Err)
			}
			if tc.calls > 0 && len(s.asked) != tc.calls {
				t.Errorf("%d calls, want %d", len(s.asked), tc.calls)
			}
		})
	}
}

func TestNotAnXMLAnswerIsAFault(t *testing.T) {
	s := newSTS(t, func(int, url.Values) (int, string) { return 200, "<html>a captive portal</html>" })
	_, err := s.client(t).AssumeRole(t.Context(), theGrant())
	if c := fault.CodeOf(err); c != fault.STSUnreachable {
		t.Errorf("code %s: %v", c, err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	s := newSTS(t, nil)
	s.Close()
	_, err := s.client(t).AssumeRole(t.Context(), theGrant())
	want := "STS does not answer for the role arn:aws:iam::123456789012:role/team/app: " + strings.TrimPrefix(s.URL, "http://") + ": "
	if f := fault.As(err); f.Code != fault.STSUnreachable || !strings.HasPrefix(f.What, want) || !strings.Contains(f.What, "connection refused") {
		t.Errorf("got %v, want %s…", err, want)
	}
}

func TestAServerThatNeverAnswersIsLeftWithTheCaller(t *testing.T) {
	newSTS(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := awssts.New(t.Context(), awssts.Options{Region: "eu-west-1", Endpoint: "http://" + l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.AssumeRole(ctx, theGrant()); fault.CodeOf(err) != fault.STSUnreachable {
		t.Errorf("got %v", err)
	}
}

func TestAHostWithoutIdentity(t *testing.T) {
	s := newSTS(t, nil)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	c := s.client(t)
	_, err := c.AssumeRole(t.Context(), theGrant())
	if f := fault.As(err); f.Code != fault.SourceUnavailable || !strings.HasPrefix(f.What, "this host has no AWS credentials of its own: ") ||
		strings.Contains(f.What, "operation error") {
		t.Errorf("AssumeRole: %v", err)
	}
	if _, err := c.CallerIdentity(t.Context()); fault.CodeOf(err) != fault.SourceUnavailable {
		t.Errorf("CallerIdentity: %v", err)
	}
	t.Setenv("AWS_PROFILE", "missing")
	if _, err := awssts.New(t.Context(), awssts.Options{Region: "eu-west-1"}); fault.CodeOf(err) != fault.SourceUnavailable {
		t.Errorf("New with a missing profile: %v", err)
	}
}

func TestCallerIdentity(t *testing.T) {
	const host = "arn:aws:sts::123456789012:assumed-role/ec2-instance-role/i-0"
	s := newSTS(t, func(int, url.Values) (int, string) { return 200, fmt.Sprintf(identityXML, host) })
	got, err := s.client(t).CallerIdentity(t.Context())
	if err != nil || got != host {
		t.Errorf("CallerIdentity = %q, %v; want %q", got, err, host)
	}
}
