package endpoint

import (
	"time"

	"taskrole/internal/container"
)

// Mint is mint.
func (k *TokenKey) Mint(id container.ID, until time.Time) string { return k.mint(id, until) }

// Valid is valid.
func (k *TokenKey) Valid(id container.ID, token string, now time.Time) bool {
	return k.valid(id, token, now)
}
