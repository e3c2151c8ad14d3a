package diagnose

import (
	"fmt"
	"strings"
)

// What users read when a step fails, as test/conformance has seen it of the SDKs themselves. … stands for what differs
// from version to version, or for the program's own words around it.

// hostsSees is what follows on a host that the SDK refuses.
func (l look) hostsSees(host string) string {
	switch l.sdk {
	case Botocore, CLIv2:
		return "Unsupported host '" + host + "'.  Can only retrieve metadata from …these hosts: 169.254.170.2, …localhost"
	case GoV1, GoV2:
		return "invalid endpoint host, \"" + host + "\", only loopback/ecs/eks hosts are allowed"
	case Rust:
		return "invalid full URI for ECS provider (URI did not refer to an allowed IP address): http://" + host
	case Ruby:
		return "AWS_CONTAINER_CREDENTIALS_FULL_URI must use a local loopback or an ECS or EKS link-local address when using the http scheme"
	default:
		return l.nothing
	}
}

// uriSees is what follows on a URI that is empty, or has no slash.
func (l look) uriSees(variable, value string) string {
	full := variable == envFull
	switch l.sdk {
	case Botocore, CLIv2:
		switch {
		case full:
			return l.hostsSees("None")
		case value != "":
			return l.hostsSees("169.254.170.2" + value)
		}
		return retrieving
	case Rust:
		switch {
		case full:
			return "invalid full URI for ECS provider (URI was invalid)"
		case value != "":
			return l.proxySees() // whoever answers there refuses /
		}
		return "invalid relative URI for ECS provider (empty string)"
	case Ruby:
		if full {
			return "'' must be a valid HTTP or HTTPS URI"
		}
		return l.nothing
	case JavaV1:
		if full {
			return l.nothing + "…The environment variable AWS_CONTAINER_CREDENTIALS_FULL_URI is empty"
		}
		return l.nothing
	default:
		return l.containerSees(Answer{Outcome: Broken})
	}
}

// missingSees is how a language says that a file cannot be opened.
func (l look) missingSees(f File) string {
	switch l.sdk {
	case Botocore, CLIv2:
		if f.State == Missing {
			return "[Errno 2] No such file or directory: '" + f.Path + "'"
		}
		return "[Errno …] …: '" + f.Path + "'"
	case JSv3, JSv2:
		if f.State == Missing {
			return "ENOENT: no such file or directory, open '" + f.Path + "'"
		}
		return "Error: …, open '" + f.Path + "'"
	case Rust:
		if f.State == Missing {
			return "an error occurred while loading credentials: No such file or directory (os error 2)"
		}
		return "an error occurred while loading credentials: … (os error …)"
	default:
		return l.nothing
	}
}

// tokenSees is what follows on an authorization token that cannot be read or sent.
func (l look) tokenSees() string {
	if l.TokenFile.Newline {
		switch l.sdk {
		case Botocore, CLIv2:
			return "Auth token value is not a legal header value"
		case GoV2:
			return "authorization token contains invalid newline sequence"
		case JSv2:
			return "TypeError [ERR_INVALID_CHAR]: Invalid character in header content [\"Authorization\"]"
		case Rust:
			return "the auth token could not be used as an HTTP header value"
		default:
			return l.nothing
		}
	}
	switch l.sdk {
	case GoV2:
		return "failed to read authorization token from " + l.TokenFile.Path
	case JavaV1:
		return l.nothing + "…Cannot fetch credentials from container - failed to read " + l.TokenFile.Path
	case Ruby:
		if l.TokenFile.State == Missing {
			return "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE is set but the file doesn't exist: " + l.TokenFile.Path
		}
		return "Aws::ECSCredentials::TokenFileReadError"
	default:
		return l.missingSees(l.TokenFile)
	}
}

// identitySees is what follows on a web identity token that cannot be read.
func (l look) identitySees() string {
	path := l.WebIdentity.Path
	switch l.sdk {
	case GoV2:
		return "failed to retrieve jwt from provide source, unable to read file at " + path
	case GoV1:
		return "WebIdentityErr: failed fetching WebIdentity token: …unable to read file at " + path
	case Ruby:
		return "Missing :web_identity_token_file parameter or invalid file path provided for Aws::AssumeRoleWebIdentityCredentials provider"
	default:
		return l.missingSees(l.WebIdentity)
	}
}

// roleSees is what follows on a web identity without a role's ARN.
func (l look) roleSees() string {
	switch l.sdk {
	case Botocore, CLIv2:
		return "The provided profile or the current environment is configured to assume role with web identity but has no role ARN configured."
	case GoV1, GoV2:
		return "role ARN is not set"
	default:
		return l.nothing
	}
}

// partialSees is what follows on a profile with a key id and no secret.
func (l look) partialSees(profile string) string {
	switch l.sdk {
	case GoV2:
		return "partial credentials found for profile " + profile
	case Rust:
		return "invalid credential source in `" + profile + "`: profile missing aws_secret_access_key"
	default:
		return "Partial credentials found in shared-credentials-file, missing: aws_secret_access_key"
	}
}

// retrieving is how botocore begins all that it says of the container endpoint.
const retrieving = "Error when retrieving credentials from container-role: Error retrieving metadata"

// expiredSees is what follows on credentials that have ended.
func (l look) expiredSees() string {
	if l.sdk == JavaV1 {
		return l.nothing + "…The credentials received have been expired"
	}
	return "Credentials were refreshed, but the refreshed credentials are still expired."
}

// containerSees is what follows on a container endpoint that fails.
func (l look) containerSees(a Answer) string {
	switch l.sdk {
	case Botocore, CLIv2:
		switch {
		case a.Outcome != Answered:
			return retrieving
		case !a.OK():
			return fmt.Sprintf(retrieving+": Received non 200 response …%d… metadata: …%s", a.Status, a.Message)
		case !a.Doc.JSON:
			return retrieving + ": Unable to parse JSON returned from … metadata services"
		}
		return "'" + a.Doc.lacks() + "'" // a KeyError's whole text
	case GoV2:
		s := "failed to refresh cached credentials, failed to load credentials"
		if a.Outcome == Answered && a.Status/100 == 4 {
			s += ", " + strings.TrimPrefix(a.Code+": "+a.Message, ": ")
		}
		return s
	case JSv3:
		if a.OK() && !a.Doc.JSON {
			return "SyntaxError: … is not valid JSON"
		}
	case Rust:
		return rustSees(a)
	case Ruby:
		if a.OK() && !a.Doc.JSON {
			return "Aws::Errors::MetadataParserError: Failed to parse metadata service response."
		}
	}
	return l.nothing
}

func rustSees(a Answer) string {
	switch {
	case a.Outcome == Answered && !a.OK():
		return fmt.Sprintf("an error occurred while loading credentials: Non-success status from HTTP credential provider: StatusCode(%d)", a.Status)
	case a.Outcome != Answered:
		return "unexpected credentials error: dispatch failure"
	case !a.Doc.JSON:
		return "unexpected credentials error: invalid JSON in response"
	}
	return "unexpected credentials error: Expected field `" + a.Doc.lacks() + "` in response but it was missing"
}

// proxySees is what follows where somebody answers who is not the container endpoint, or knows no such path.
func (l look) proxySees() string {
	if l.sdk == Rust {
		return "an error occurred while loading credentials: Non-success status from HTTP credential provider"
	}
	return l.containerSees(Answer{Outcome: Broken})
}

// lacks is the first field that is not there, in the order in which it is looked for.
func (d Document) lacks() string {
	switch {
	case !d.Key:
		return "AccessKeyId"
	case !d.Secret:
		return "SecretAccessKey"
	case !d.Token:
		return "Token"
	}
	return "Expiration"
}

// rustToken is how Rust's SDK begins all that it says of the metadata service's token.
const rustToken = "an error occurred while loading credentials: failed to load IMDS session token"

// imdsSees is what follows on a metadata service that has nothing, where that is not what a search without a result says.
func (l look) imdsSees() string {
	switch t := l.IMDS.Token; {
	case l.sdk == IMDSv1 && l.IMDS.V1.Outcome == Answered:
		return fmt.Sprintf("…%d…", l.IMDS.V1.Status)
	case l.sdk == IMDSv1:
		return "…169.254.169.254…"
	case l.sdk == Rust && t.Outcome == Answered && !t.OK():
		return rustToken
	}
	return ""
}
