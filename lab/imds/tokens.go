package imds

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"
)

// A token is eight bytes of expiry, sixteen random ones and a MAC over both, so the service keeps none of them.
const (
	expirySize = 8
	plainSize  = expirySize + 16
	tokenSize  = plainSize + sha256.Size
)

type tokens struct {
	key [32]byte
	now func() time.Time
}

func newTokens(now func() time.Time) *tokens {
	t := &tokens{now: now}
	_, _ = rand.Read(t.key[:]) // never fails, by its documentation
	return t
}

func (t *tokens) issue(life time.Duration) string {
	b := make([]byte, plainSize, tokenSize)
	binary.BigEndian.PutUint64(b, uint64(t.now().Add(life).UnixMilli()))
	_, _ = rand.Read(b[expirySize:])
	return base64.URLEncoding.EncodeToString(append(b, t.mac(b)...))
}

// left says how long the token is good for, and whether it is.
func (t *tokens) left(token string) (time.Duration, bool) {
	b, err := base64.URLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) != tokenSize || !hmac.Equal(t.mac(b[:plainSize]), b[plainSize:]) {
		return 0, false
	}
	left := time.UnixMilli(int64(binary.BigEndian.Uint64(b))).Sub(t.now()) //nolint:gosec // as issue wrote it
	return left, left > 0
}

func (t *tokens) mac(b []byte) []byte {
	h := hmac.New(sha256.New, t.key[:])
	h.Write(b)
	return h.Sum(nil)
}
