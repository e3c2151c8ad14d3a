// Package broker keeps the credentials of every container in memory and fresh.
//
// It is asked for a grant and answers with a Lease, from which credentials are read without waiting. One goroutine a
// grant talks to STS, however many containers share it: it fetches once, renews at 30 to 50 % of the life, and stops
// with the last lease. The SDK's own aws.CredentialsCache is not used because it renews in the foreground of
// whoever asks, and throws the old value away when that fails.
//
// The broker refuses to serve what has expired, and to drop what has not. It knows nothing of AWS beyond the Source it
// is given, and never writes anything down. Its test double is any Source.
package broker

import (
	"context"
	"log/slog"
	"time"

	"taskrole/internal/grant"
	"taskrole/internal/secret"
)

// Source gives credentials for a grant: awssts.Client outside tests. Its errors should be *fault.Error; whatever they
// are, they reach the person who started the container.
type Source interface {
	AssumeRole(ctx context.Context, g grant.Grant) (secret.Credentials, error)
}

// Options say how a Broker works. Only Source must be set.
type Options struct {
	Source Source
	Logger *slog.Logger // nil: nothing is logged
	// CallsPerSecond caps the calls to Source of all grants together; as many may come at once. 0 means 20. STS allows
	// 600 a second for a whole account and region, so one host must not take much of it.
	CallsPerSecond float64
	// Now is the wall clock; nil means time.Now. Tests set it to make the clock jump.
	Now func() time.Time
}
