package sigv4

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"strconv"
	"strings"
)

// What DecodeChunks refuses. The services find the code and the words for it.
var (
	ErrChunkSignature = errors.New("a chunk's signature does not match")
	ErrChunkFormat    = errors.New("not a well-formed aws-chunked body")
	ErrChecksum       = errors.New("the trailing checksum does not match")
	ErrIncomplete     = errors.New("fewer or more bytes than announced")
	ErrMode           = errors.New("unknown streaming mode")
)

// Streaming modes: values of x-amz-content-sha256 that announce an aws-chunked body.
const (
	StreamSigned          = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	StreamSignedTrailer   = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
	StreamUnsignedTrailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
)

// Stream describes an aws-chunked body.
type Stream struct {
	Mode    string // one of the Stream… constants
	Trailer string // value of X-Amz-Trailer: the checksum header that will follow the body; "" for none
	Length  int64  // value of X-Amz-Decoded-Content-Length
}

// chunks reads one body.
type chunks struct {
	in       *bufio.Reader
	auth     *Auth
	key      []byte
	previous string // the signature the next one is chained to
	signed   bool
	out      bytes.Buffer
	checksum hash.Hash // of the whole body; nil when no trailer announces one
}

// DecodeChunks reads and verifies an aws-chunked body to its end and returns what was in it, with the verified
// trailing checksum ("" when there is none). It returns nothing at all of a body of which any part is wrong: half an
// object must never reach the store. a must have been verified, since its signature is the seed of the chain.
func DecodeChunks(body io.Reader, a *Auth, secret string, s Stream) (content []byte, checksum string, err error) {
	c := &chunks{in: bufio.NewReader(body), auth: a, key: a.signingKey(secret), previous: a.Signature}
	trailer := false
	switch s.Mode {
	case StreamSigned:
		c.signed = true
	case StreamSignedTrailer:
		c.signed, trailer = true, true
	case StreamUnsignedTrailer:
		trailer = true
	default:
		return nil, "", ErrMode
	}
	name := strings.ToLower(s.Trailer)
	if trailer && name != "" {
		if c.checksum = newChecksum(name); c.checksum == nil {
			return nil, "", ErrChunkFormat
		}
	}
	if err := c.readChunks(s.Length); err != nil {
		return nil, "", err
	}
	if trailer {
		checksum, err = c.readTrailer(name)
	} else {
		err = c.blank() // of the last, empty chunk
	}
	if err != nil {
		return nil, "", err
	}
	if _, err := c.in.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, "", ErrIncomplete
	}
	return c.out.Bytes(), checksum, nil
}

// readChunks reads up to and including the header of the empty chunk that ends the body.
func (c *chunks) readChunks(length int64) error {
	for {
		size, signature, err := c.header()
		if err != nil {
			return err
		}
		if size > length-int64(c.out.Len()) {
			return ErrIncomplete
		}
		h := sha256.New()
		w := io.MultiWriter(&c.out, h)
		if c.checksum != nil {
			w = io.MultiWriter(&c.out, h, c.checksum)
		}
		if _, err := io.CopyN(w, c.in, size); err != nil {
			return ErrIncomplete
		}
		if err := c.verify(signature, "PAYLOAD", EmptySHA256, hex.EncodeToString(h.Sum(nil))); err != nil {
			return err
		}
		if size == 0 {
			break
		}
		if err := c.blank(); err != nil {
			return err
		}
	}
	if int64(c.out.Len()) != length {
		return ErrIncomplete
	}
	return nil
}

// header reads SIZE in hex, and in a signed body ";chunk-signature=" and the signature.
func (c *chunks) header() (size int64, signature string, err error) {
	line, err := c.line()
	if err != nil {
		return 0, "", err
	}
	text, ext, extended := strings.Cut(line, ";")
	size, perr := strconv.ParseInt(text, 16, 63)
	signature, named := strings.CutPrefix(ext, "chunk-signature=")
	if perr != nil || size < 0 || strings.HasPrefix(text, "+") || extended != c.signed || named != c.signed {
		return 0, "", ErrChunkFormat
	}
	return size, signature, nil
}

// verify checks one link of the chain; the next one hangs on it.
func (c *chunks) verify(signature, kind string, digests ...string) error {
	if !c.signed {
		return nil
	}
	want := hex.EncodeToString(mac(c.key, Algorithm+"-"+kind+"\n"+c.auth.Time.Format(TimeFormat)+"\n"+
		c.auth.Scope()+"\n"+c.previous+"\n"+strings.Join(digests, "\n")))
	if subtle.ConstantTimeCompare([]byte(want), []byte(signature)) != 1 {
		return ErrChunkSignature
	}
	c.previous = want
	return nil
}

// readTrailer reads what follows the last chunk: the checksum, in a signed body also a signature over it, and an
// empty line. AWS's own example has a line feed before the carriage return, so empty lines before the signature pass.
func (c *chunks) readTrailer(name string) (string, error) {
	var block strings.Builder
	var value, signature string
	for lines := 0; ; lines++ {
		line, err := c.line()
		if err != nil || lines > 8 { // nobody sends more than two
			return "", ErrChunkFormat
		}
		if line == "" && (signature != "" || !c.signed) {
			break
		}
		if line == "" {
			continue
		}
		k, v, _ := strings.Cut(line, ":")
		k, v = strings.ToLower(k), strings.Trim(v, " \t")
		switch {
		case k == "x-amz-trailer-signature" && signature == "":
			signature = v
		case k == name && value == "" && signature == "":
			value = v
			block.WriteString(k + ":" + v + "\n")
		default:
			return "", ErrChunkFormat
		}
	}
	if err := c.verify(signature, "TRAILER", sum(block.String())); err != nil {
		return "", err
	}
	switch {
	case c.checksum == nil:
		return "", nil
	case value == "":
		return "", ErrChunkFormat
	case encodeChecksum(c.checksum) != value:
		return "", ErrChecksum
	}
	return value, nil
}

// blank reads the CRLF that ends a chunk's data.
func (c *chunks) blank() error {
	switch line, err := c.line(); {
	case err != nil:
		return err
	case line != "":
		return ErrChunkFormat
	}
	return nil
}

// line reads a line, of at most the buffer's 4096 bytes, without its end.
func (c *chunks) line() (string, error) {
	line, err := c.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", ErrChunkFormat
	case err != nil:
		return "", ErrIncomplete
	}
	return strings.TrimSuffix(string(line[:len(line)-1]), "\r"), nil
}
