package endpoint

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	"taskrole/internal/container"
	"taskrole/internal/secret"
)

// TokenKey signs IMDSv2 session tokens. Tokens are stateless: a MAC over the container and the expiry, so that they
// stay valid when the agent is restarted with the same key; some SDKs hold one for six hours and do not drop it on
// a 401 (rule R10). One key serves all containers; a token is valid for the container it was given to only.
type TokenKey struct{ key secret.Value }

// keySize is that of SHA-256's output: more adds nothing, less would be the weakest part.
const keySize = sha256.Size

// ErrKeySize means that a text is no token key.
var ErrKeySize = errors.New("token key must be 32 bytes")

// NewTokenKey makes a random key.
func NewTokenKey() *TokenKey {
	k := make([]byte, keySize)
	_, _ = rand.Read(k) // never fails, says crypto/rand
	return &TokenKey{key: secret.New(string(k))}
}

// FromSecret makes a key of what Secret returned. The error is ErrKeySize.
func FromSecret(v secret.Value) (*TokenKey, error) {
	if len(v.Reveal()) != keySize {
		return nil, ErrKeySize
	}
	return &TokenKey{key: v}, nil
}

// Secret returns the key, 32 bytes, for keeping across a restart.
func (k *TokenKey) Secret() secret.Value { return k.key }

// A token is base64url of: expiry in Unix seconds (8 bytes), nonce (8 bytes), MAC. The nonce makes two tokens of the same
// second differ, as AWS's do.
const (
	nonceSize = 8
	headSize  = 8 + nonceSize
	tokenSize = headSize + sha256.Size
)

// mint makes a token for the container that is valid until then.
func (k *TokenKey) mint(id container.ID, until time.Time) string {
	b := make([]byte, headSize, tokenSize)
	binary.BigEndian.PutUint64(b, uint64(until.Unix())) //nolint:gosec // after 1970
	_, _ = rand.Read(b[8:])
	return base64.RawURLEncoding.EncodeToString(k.mac(b, id))
}

// valid says whether the token is one of the container's and has not expired.
func (k *TokenKey) valid(id container.ID, token string, now time.Time) bool {
	if len(token) != base64.RawURLEncoding.EncodedLen(tokenSize) {
		return false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || !hmac.Equal(b, k.mac(b[:headSize:headSize], id)) {
		return false
	}
	return now.Unix() < int64(binary.BigEndian.Uint64(b)) //nolint:gosec // our own MAC vouches for it
}

// Authorization is the token that AWS_CONTAINER_AUTHORIZATION_TOKEN holds in containers of the role. It is made of the
// key, so that it stays the same as long as the key does; and of the role, because the environment is the same for all
// containers of a role. It has no character that a client could refuse in a header.
func (k *TokenKey) Authorization(role string) secret.Value {
	m := hmac.New(sha256.New, []byte(k.key.Reveal()))
	_, _ = m.Write([]byte("taskrole authorization token 1\x00"))
	_, _ = m.Write([]byte(role))
	return secret.New(base64.RawURLEncoding.EncodeToString(m.Sum(nil)))
}

// mac appends the MAC of head and id to head.
func (k *TokenKey) mac(head []byte, id container.ID) []byte {
	m := hmac.New(sha256.New, []byte(k.key.Reveal()))
	_, _ = m.Write([]byte("taskrole imds token 1\x00")) // what else the key may once sign
	_, _ = m.Write(head)                                // of fixed length, so nothing runs together with the id
	_, _ = m.Write([]byte(id))
	return m.Sum(head)
}
