// Package report is what the lab's probe writes and the lab reads: who a process is to AWS, as one JSON object.
//
// It is apart from the probe, which is a main package and so cannot be imported, and it holds no behaviour.
package report

// Report is one run of the probe's identity step.
type Report struct {
	// ARN is what GetCallerIdentity answered, or empty.
	ARN string `json:"arn"`
	// Buckets are the names ListBuckets answered; nil if it did not.
	Buckets []string `json:"buckets"`
	Errors  Errors   `json:"errors"`
	// Seconds from the first question to the last answer.
	Seconds float64 `json:"seconds"`
}

// Errors are the client's exact words, each empty where there was no error. After an error in Credentials nothing
// else is asked: the client would only look for the same credentials again.
type Errors struct {
	Credentials string `json:"credentials,omitempty"`
	STS         string `json:"sts,omitempty"`
	S3          string `json:"s3,omitempty"`
}

// First returns the first error in the order in which they are asked, or empty.
func (e Errors) First() string {
	for _, s := range []string{e.Credentials, e.STS, e.S3} {
		if s != "" {
			return s
		}
	}
	return ""
}

// Keys are the three values of the credentials the default chain found, for the part of the story in which somebody
// copies them by hand. They are the simulated account's: worth nothing anywhere else.
type Keys struct {
	AccessKeyID     string `json:"access_key_id"`
	SecretAccessKey string `json:"secret_access_key"`
	SessionToken    string `json:"session_token"`
}

// Race is what a process heard from the metadata service from its first moment on, until it was told its own role.
type Race struct {
	// First is the role that the first answer named, FirstSeconds after the process began.
	First        string  `json:"first"`
	FirstSeconds float64 `json:"first_seconds"`
	// Unanswered is how many questions before that had no answer.
	Unanswered int `json:"unanswered"`
	// Others is how many answers named another role than the wanted one.
	Others int `json:"others"`
	// Seconds from the process's beginning to the first answer with the wanted role.
	Seconds float64 `json:"seconds"`
}
