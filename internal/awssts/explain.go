package awssts

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"taskrole/internal/fault"
)

const (
	hintHost     = "give the host an instance profile or other AWS credentials, and check them with: aws sts get-caller-identity"
	hintEndpoint = "check that sts.endpoint and region in the configuration are right and that this host reaches them"
	hintThrottle = "it is tried again; if it lasts, lower sts.calls_per_second or ask AWS for a higher quota"
	hintRequest  = "correct the role in the configuration"
)

// explain makes a fault of what the SDK returned for a call about subject.
func explain(err error, subject string) *fault.Error {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return fault.Wrap(err, fault.STSUnreachable, "STS does not answer for "+subject+": "+tidy(transport(err)), hintEndpoint)
	}
	status := 0
	if re, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		status = re.HTTPStatusCode()
	}
	code, message := tidy(api.ErrorCode()), tidy(api.ErrorMessage())
	if message == "" {
		message = code
	}
	switch code {
	case "Throttling", "ThrottlingException", "ThrottledException", "RequestLimitExceeded", "TooManyRequestsException", "SlowDown":
		return fault.Wrap(err, fault.STSUnreachable, "STS is throttling this account: "+message, hintThrottle)
	case "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException", "MissingAuthenticationToken":
		return fault.Wrap(err, fault.SourceUnavailable, "AWS does not accept this host's own credentials: "+message, hintHost)
	case "SignatureDoesNotMatch", "RequestExpired", "RequestTimeTooSkewed", "InvalidSignatureException", "IncompleteSignature":
		return fault.Wrap(err, fault.SourceUnavailable, "AWS does not accept this host's signature: "+message,
			"set this host's clock, and check its secret access key")
	case "AccessDenied", "AccessDeniedException":
		return fault.Wrap(err, fault.STSDenied, "AWS refuses "+subject+": "+message, hintDenied(message))
	case "RegionDisabledException":
		return fault.Wrap(err, fault.STSDenied, "AWS refuses "+subject+": "+message, "activate STS for the region in the account, or set another region")
	}
	switch {
	case status == http.StatusTooManyRequests:
		return fault.Wrap(err, fault.STSUnreachable, "STS is throttling this account: "+message, hintThrottle)
	case status >= http.StatusInternalServerError:
		return fault.Wrap(err, fault.STSUnreachable, "STS is broken at the moment: "+code+": "+message, "it is tried again")
	}
	// ValidationError, MalformedPolicyDocument, PackedPolicyTooLarge and whatever else is wrong with the request.
	hint := hintRequest
	if strings.Contains(message, "MaxSessionDuration") {
		hint = "lower duration of the role in the configuration, or raise the role's MaxSessionDuration in IAM"
	}
	return fault.Wrap(err, fault.STSDenied, "AWS refuses "+subject+": "+code+": "+message, hint)
}

// hintDenied says who must be allowed, in the words a trust policy wants: AWS's message names the session, and a
// policy names its role.
func hintDenied(message string) string {
	who := "this host's own role"
	if _, rest, ok := strings.Cut(message, "User: "); ok {
		user, _, _ := strings.Cut(rest, " ")
		if strings.HasPrefix(user, "arn:") {
			who = principal(user)
		}
	}
	switch {
	case strings.Contains(message, "explicit deny"):
		return "no other policy can allow it again: except " + who + " from the Deny; \"taskrole roles --check\" says more"
	case strings.Contains(message, "sts:TagSession"):
		return "let its trust policy allow " + who + " sts:TagSession too, or take tags out of the configuration"
	}
	return "let its trust policy name " + who + ", and let the agent's own role call sts:AssumeRole on it"
}

// principal turns arn:P:sts::ACCOUNT:assumed-role/NAME/SESSION into arn:P:iam::ACCOUNT:role/NAME. The path of the role
// is not in a session's ARN, so it is missing here too. Other ARNs stay as they are.
func principal(user string) string {
	head, session, ok := strings.Cut(user, ":assumed-role/")
	name, _, _ := strings.Cut(session, "/")
	if !ok || name == "" {
		return user
	}
	return strings.Replace(head, ":sts:", ":iam:", 1) + ":role/" + name
}

// transport is the short text of an error that came from no server.
func transport(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return root(err)
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		host := ""
		if u, perr := url.Parse(ue.URL); perr == nil {
			host = u.Host + ": "
		}
		return host + ue.Err.Error()
	}
	return root(err)
}

// tidy makes foreign text fit for one sentence: printable, on one line, of bounded length.
func tidy(s string) string {
	const most = 600 // AWS's longest denial names two ARNs and an action
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "?"))
	s = strings.TrimRight(strings.Join(strings.Fields(s), " "), ".")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
