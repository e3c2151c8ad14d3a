package iam

import "time"

// Event is one call of a service, as the account's audit trail has it.
type Event struct {
	Time        time.Time `json:"time"`
	Service     string    `json:"service"`                 // sts, s3, imds
	Action      string    `json:"action"`                  // AssumeRole, ListAllMyBuckets, …; "" when it could not be read
	AccessKeyID string    `json:"access_key_id,omitempty"` // claimed by the request, verified or not
	Principal   string    `json:"principal,omitempty"`     // ARN; "" when the request was not authenticated
	Status      int       `json:"status"`                  // of the answer; 0 when the connection was cut
	Code        string    `json:"code,omitempty"`          // of the error
	Remote      string    `json:"remote"`                  // address of the client
}
