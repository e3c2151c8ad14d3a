package broker

import (
	"context"

	"taskrole/internal/grant"
	"taskrole/internal/secret"
)

// Try asks the source once for the grant, whatever is held or was refused for it, and keeps nothing. It waits behind the
// containers that are just starting, as renewals do.
func (b *Broker) Try(ctx context.Context, g grant.Grant) (secret.Credentials, error) {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return secret.Credentials{}, stopping(nil)
	}
	c, f := b.call(ctx, g, true)
	if f != nil {
		return secret.Credentials{}, f
	}
	return c, nil
}
