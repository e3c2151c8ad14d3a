// Package sigv4 verifies AWS Signature Version 4 on incoming requests: in the Authorization header, in the query of
// a presigned URL, and chunk by chunk in an aws-chunked body.
//
// It is the server's half of what the SDKs' signers do, for the simulated AWS of the laboratory. It builds the
// canonical request from the client's own SignedHeaders instead of signing a copy with an SDK's signer, because the
// latter refuses to sign some headers (User-Agent, Expect, Transfer-Encoding) that other clients do sign, and hides
// the canonical request that S3 shows in its error. The SDKs are its oracles in the tests.
//
// It refuses what it does not know: other algorithms, SigV4A, the older signature versions. It knows no service's
// error format: a failure is an *Error with a Kind, which each service puts into its own words. Not for production:
// it has never been attacked by anyone but its own tests.
package sigv4

import "time"

// Words of the protocol.
const (
	// Algorithm is the only one accepted.
	Algorithm = "AWS4-HMAC-SHA256"
	// TimeFormat is ISO 8601 basic, UTC, as X-Amz-Date has it.
	TimeFormat = "20060102T150405Z"
	// UnsignedPayload stands for the body's hash in a request that does not sign its body.
	UnsignedPayload = "UNSIGNED-PAYLOAD"
	// EmptySHA256 is the hash of no bytes at all.
	EmptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

	dateFormat = "20060102"
	terminal   = "aws4_request"
)

// MaxSkew is how far a client's clock may be off before S3 and STS refuse (other services allow five minutes).
const MaxSkew = 15 * time.Minute

// Kind says what is wrong with a request's authentication.
type Kind int

// Every way in which Parse, CheckTime and Verify refuse.
const (
	_                Kind = iota
	NoAuth                // no credentials of any kind
	Malformed             // the Authorization header cannot be read
	MissingDate           // neither X-Amz-Date nor Date, or not a date
	OldSignature          // Signature Version 2
	NotAuth               // another Authorization scheme, or two mechanisms at once
	DateMismatch          // the scope's date is not the request's
	HeadersNotSigned      // Detail: the headers
	QueryParams           // a presigned URL's parameters cannot be read
	NotYetValid           // presigned, from the future
	ExpiredURL            // presigned, over
	Skewed                // the clocks are too far apart
	Mismatch              // the signature is wrong
)

// Error is a refusal. Detail is in AWS's words and may be shown to the client.
type Error struct {
	Kind   Kind
	Detail string
	// What the server computed; only with Mismatch. S3 shows both to the client.
	StringToSign, CanonicalRequest string
}

func (e *Error) Error() string { return "verify signature: " + e.Detail }

// Auth is what a request claims about itself. Nothing of it is true before Verify has said so.
type Auth struct {
	AccessKeyID           string
	Date, Region, Service string   // the credential scope
	SignedHeaders         []string // lower case, sorted
	Signature             string   // lower-case hex
	Time                  time.Time
	Token                 string // the session token, "" when none was sent
	Presigned             bool
	Expires               time.Duration // of a presigned URL
	ExpiresGiven          bool          // S3 insists on X-Amz-Expires, other services do not
}

// Scope is the credential scope without the key id.
func (a *Auth) Scope() string { return a.Date + "/" + a.Region + "/" + a.Service + "/" + terminal }

func refuse(k Kind, detail string) *Error { return &Error{Kind: k, Detail: detail} }
