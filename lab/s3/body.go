package s3

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"taskrole/lab/sigv4"
)

// maxBody bounds what one request may keep in memory.
const maxBody = 256 << 20

const incomplete = "You did not provide the number of bytes specified by the Content-Length HTTP header"

// checkBody reads the body, checks it against what was signed, and puts in its place what the store shall see. It
// reads all of it first: a bad last chunk must not leave half an object.
func (c *call) checkBody(a *sigv4.Auth, secret, hash string) error {
	if c.r.ContentLength < 0 && c.r.Method == http.MethodPut {
		if c.r.Header.Get("X-Amz-Decoded-Content-Length") == "" {
			return fail(http.StatusLengthRequired, "MissingContentLength", "You must provide the Content-Length HTTP header.")
		}
	}
	in := &limited{r: c.r.Body, left: maxBody}
	var content []byte
	var err error
	if strings.HasPrefix(hash, "STREAMING-") {
		content, err = c.decode(in, a, secret, hash)
	} else {
		content, err = io.ReadAll(in)
	}
	var refused *Error
	switch {
	case in.left < 0:
		return fail(http.StatusBadRequest, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size", detail{"MaxSizeAllowed", strconv.Itoa(maxBody)})
	case errors.As(err, &refused):
		return err
	case err != nil:
		return fail(http.StatusBadRequest, "IncompleteBody", incomplete)
	}
	if !strings.HasPrefix(hash, "STREAMING-") && hash != sigv4.UnsignedPayload {
		if got := sha256.Sum256(content); hex.EncodeToString(got[:]) != hash {
			return fail(http.StatusBadRequest, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed.",
				detail{"ClientComputedContentSHA256", hash}, detail{"S3ComputedContentSHA256", hex.EncodeToString(got[:])})
		}
	}
	c.setBody(content)
	// The store takes these for its own business otherwise: it has a signature check and a chunk decoder too.
	for _, name := range []string{"Authorization", "X-Amz-Content-Sha256", "X-Amz-Trailer", "X-Amz-Decoded-Content-Length"} {
		c.r.Header.Del(name)
	}
	return nil
}

// decode takes an aws-chunked body apart. The store is told the verified checksum, which it keeps with the object.
func (c *call) decode(body io.Reader, a *sigv4.Auth, secret, mode string) ([]byte, error) {
	h := c.r.Header
	n, err := strconv.ParseInt(h.Get("X-Amz-Decoded-Content-Length"), 10, 64)
	if err != nil || n < 0 {
		return nil, fail(http.StatusLengthRequired, "MissingContentLength", "You must provide the Content-Length HTTP header.")
	}
	trailer := h.Get("X-Amz-Trailer")
	content, checksum, err := sigv4.DecodeChunks(body, a, secret, sigv4.Stream{Mode: mode, Trailer: trailer, Length: n})
	switch {
	case errors.Is(err, sigv4.ErrMode):
		return nil, fail(http.StatusNotImplemented, "NotImplemented", "A header you provided implies functionality that is not implemented.")
	case errors.Is(err, sigv4.ErrChunkSignature):
		return nil, fail(http.StatusForbidden, "SignatureDoesNotMatch", wrongSignature, detail{"AWSAccessKeyId", a.AccessKeyID})
	case errors.Is(err, sigv4.ErrChecksum):
		return nil, fail(http.StatusBadRequest, "BadDigest", "The "+checksumName(trailer)+" you specified did not match the calculated checksum.")
	case errors.Is(err, sigv4.ErrChunkFormat):
		return nil, invalid("The body is not a well-formed aws-chunked stream.")
	case err != nil:
		return nil, fail(http.StatusBadRequest, "IncompleteBody", incomplete)
	}
	if checksum != "" {
		h.Set(trailer, checksum)
	}
	var rest []string
	for e := range strings.SplitSeq(strings.Join(h.Values("Content-Encoding"), ","), ",") {
		if e = strings.TrimSpace(e); e != "" && e != "aws-chunked" {
			rest = append(rest, e)
		}
	}
	h.Del("Content-Encoding")
	if len(rest) > 0 {
		h.Set("Content-Encoding", strings.Join(rest, ","))
	}
	return content, nil
}

func (c *call) setBody(content []byte) {
	c.r.Body, c.r.ContentLength, c.r.TransferEncoding = io.NopCloser(bytes.NewReader(content)), int64(len(content)), nil
	c.r.Header.Set("Content-Length", strconv.Itoa(len(content)))
}

// checksumName is CRC32 for x-amz-checksum-crc32.
func checksumName(header string) string {
	return strings.ToUpper(strings.TrimPrefix(strings.ToLower(header), "x-amz-checksum-"))
}

// limited is a reader that fails when more than left bytes come; left is negative then.
type limited struct {
	r    io.Reader
	left int64
}

var errTooLarge = errors.New("the body is too large")

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}
