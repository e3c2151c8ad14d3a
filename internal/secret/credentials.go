package secret

import "time"

// Credentials are temporary AWS credentials as STS gives them: three values that are useless apart, and the
// moment they end.
type Credentials struct {
	AccessKeyID     string // not a secret: AWS prints it in its own errors and logs
	SecretAccessKey Value
	SessionToken    Value
	Expires         time.Time // when AWS stops accepting them; whole seconds, UTC
	AccountID       string    // twelve digits, of the role
	RoleARN         string    // the role that was assumed, arn:PARTITION:iam::ACCOUNT:role/NAME
}

// Complete says whether all three values and the expiry are there. A partial set must never be served: SDKs sign
// with what they find.
func (c Credentials) Complete() bool {
	return c.AccessKeyID != "" && !c.SecretAccessKey.Empty() && !c.SessionToken.Empty() && !c.Expires.IsZero()
}
