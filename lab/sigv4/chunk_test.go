package sigv4_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"taskrole/lab/sigv4"
)

// The keys of AWS's examples, from the S3 API reference ("Transferring Payload in Multiple Chunks").
const (
	exampleKey    = "AKIAIOSFODNN7EXAMPLE"
	exampleSecret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

func exampleAuth(seed string) *sigv4.Auth {
	return &sigv4.Auth{
		AccessKeyID: exampleKey, Date: "20130524", Region: "us-east-1", Service: "s3", Signature: seed,
		Time: time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC),
	}
}

// example is 65 KiB of the letter a in two chunks, as AWS shows it.
func example(signatures ...string) []byte {
	var b bytes.Buffer
	for i, size := range []int{65536, 1024, 0} {
		fmt.Fprintf(&b, "%x;chunk-signature=%s\r\n%s", size, signatures[i], strings.Repeat("a", size))
		if size > 0 {
			b.WriteString("\r\n")
		}
	}
	return b.Bytes()
}

type worked struct {
	name   string
	auth   *sigv4.Auth
	body   []byte
	stream sigv4.Stream
}

func workedExamples() []worked {
	signed := example("ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
		"0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
		"b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9")
	trailer := example("b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
		"1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
		"2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992")
	trailer = append(trailer, "x-amz-checksum-crc32c:sOO8/Q==\n\r\n"+
		"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"...)
	return []worked{
		{
			"signed", exampleAuth("4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"),
			append(signed, "\r\n"...),
			sigv4.Stream{Mode: sigv4.StreamSigned, Length: 66560},
		},
		{
			"signed_trailer", exampleAuth("106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"),
			trailer,
			sigv4.Stream{Mode: sigv4.StreamSignedTrailer, Trailer: "x-amz-checksum-crc32c", Length: 66560},
		},
	}
}

func TestDecodeChunksAcceptsAWSExamples(t *testing.T) {
	for _, w := range workedExamples() {
		t.Run(w.name, func(t *testing.T) {
			got, _, err := sigv4.DecodeChunks(bytes.NewReader(w.body), w.auth, exampleSecret, w.stream)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != strings.Repeat("a", 66560) {
				t.Errorf("got %d bytes, want 66560 times a", len(got))
			}
		})
	}
}

// Every place where a byte means something is tried, and a sample of the data.
func TestDecodeChunksRefusesEveryFlippedByte(t *testing.T) {
	for _, w := range workedExamples() {
		t.Run(w.name, func(t *testing.T) {
			for i := 0; i < len(w.body); i++ {
				if w.body[i] == 'a' && bytes.HasPrefix(w.body[i:], []byte("aaaa")) && i%8192 != 0 {
					continue
				}
				changed := bytes.Clone(w.body)
				changed[i] ^= 1
				got, _, err := sigv4.DecodeChunks(bytes.NewReader(changed), w.auth, exampleSecret, w.stream)
				if err == nil {
					t.Errorf("byte %d (%q) flipped: accepted", i, w.body[i])
				}
				if err != nil && got != nil {
					t.Errorf("byte %d flipped: %d bytes came with the error", i, len(got))
				}
			}
		})
	}
}

func TestDecodeChunksRefusesEveryTruncation(t *testing.T) {
	for _, w := range workedExamples() {
		t.Run(w.name, func(t *testing.T) {
			for n := range len(w.body) {
				if n > 200 && n < 66500 && n%1000 != 0 {
					continue
				}
				if _, _, err := sigv4.DecodeChunks(bytes.NewReader(w.body[:n]), w.auth, exampleSecret, w.stream); err == nil {
					t.Errorf("the first %d of %d bytes were accepted", n, len(w.body))
				}
			}
		})
	}
}

func TestDecodeChunksRefuses(t *testing.T) {
	const crc = "x-amz-checksum-crc32"
	sum := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte("hello"))))
	for _, tc := range []struct {
		name, body string
		stream     sigv4.Stream
		want       error
	}{
		{"good", "5\r\nhello\r\n0\r\n" + crc + ":" + sum + "\r\n\r\n", sigv4.Stream{Trailer: crc, Length: 5}, nil},
		{"no_checksum_announced", "5\r\nhello\r\n0\r\n\r\n", sigv4.Stream{Length: 5}, nil},
		{"wrong_checksum", "5\r\nhallo\r\n0\r\n" + crc + ":" + sum + "\r\n\r\n", sigv4.Stream{Trailer: crc, Length: 5}, sigv4.ErrChecksum},
		{"checksum_missing", "5\r\nhello\r\n0\r\n\r\n", sigv4.Stream{Trailer: crc, Length: 5}, sigv4.ErrChunkFormat},
		{"another_trailer", "5\r\nhello\r\n0\r\nx-amz-meta-x:1\r\n\r\n", sigv4.Stream{Length: 5}, sigv4.ErrChunkFormat},
		{"unknown_checksum", "0\r\n\r\n", sigv4.Stream{Trailer: "x-amz-checksum-md4"}, sigv4.ErrChunkFormat},
		{"too_long", "5\r\nhello\r\n0\r\n\r\n", sigv4.Stream{Length: 4}, sigv4.ErrIncomplete},
		{"too_short", "5\r\nhello\r\n0\r\n\r\n", sigv4.Stream{Length: 6}, sigv4.ErrIncomplete},
		{"more_after_the_end", "5\r\nhello\r\n0\r\n\r\nx", sigv4.Stream{Length: 5}, sigv4.ErrIncomplete},
		{"negative", "-5\r\nhello\r\n0\r\n\r\n", sigv4.Stream{Length: 5}, sigv4.ErrChunkFormat},
		{"plus", "+5\r\nhello\r\n0\r\n\r\n", sigv4.Stream{Length: 5}, sigv4.ErrChunkFormat},
		{"huge", "3fffffffffffffff\r\nhello", sigv4.Stream{Length: 5}, sigv4.ErrIncomplete},
		{"overflow", "fffffffffffffffff\r\nhello", sigv4.Stream{Length: 5}, sigv4.ErrChunkFormat},
		{"data_longer_than_chunk", "5\r\nhelloX\r\n0\r\n\r\n", sigv4.Stream{Length: 5}, sigv4.ErrChunkFormat},
		{"endless_line", strings.Repeat("0", 10000), sigv4.Stream{Length: 5}, sigv4.ErrChunkFormat},
		{"extension_in_unsigned", "5;chunk-signature=x\r\nhello\r\n0\r\n\r\n", sigv4.Stream{Length: 5}, sigv4.ErrChunkFormat},
		{"unknown_mode", "0\r\n\r\n", sigv4.Stream{Mode: "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"}, sigv4.ErrMode},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.stream.Mode == "" {
				tc.stream.Mode = sigv4.StreamUnsignedTrailer
			}
			got, checksum, err := sigv4.DecodeChunks(strings.NewReader(tc.body), exampleAuth("seed"), exampleSecret, tc.stream)
			if !errors.Is(err, tc.want) {
				t.Fatalf("DecodeChunks: %v, want %v", err, tc.want)
			}
			if tc.want == nil && (string(got) != "hello" || tc.stream.Trailer != "" && checksum != sum) {
				t.Errorf("DecodeChunks = %q, checksum %q", got, checksum)
			}
		})
	}
}

// encode is the client's half, written from AWS's description and not with the package's own functions.
func encode(a *sigv4.Auth, content []byte, size int, trailer bool) []byte {
	key := []byte("AWS4" + exampleSecret)
	for _, part := range []string{a.Date, a.Region, a.Service, "aws4_request"} {
		key = sign(key, part)
	}
	previous := a.Signature
	chain := func(kind, digests string) string {
		previous = hex.EncodeToString(sign(key, "AWS4-HMAC-SHA256-"+kind+"\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n"+previous+"\n"+digests))
		return previous
	}
	var b bytes.Buffer
	checksum := crc32.ChecksumIEEE(content)
	for {
		chunk := content[:min(size, len(content))]
		content = content[len(chunk):]
		digest := sha256.Sum256(chunk)
		fmt.Fprintf(&b, "%x;chunk-signature=%s\r\n", len(chunk), chain("PAYLOAD", sigv4.EmptySHA256+"\n"+hex.EncodeToString(digest[:])))
		b.Write(chunk)
		if len(chunk) == 0 {
			break
		}
		b.WriteString("\r\n")
	}
	if trailer {
		line := "x-amz-checksum-crc32:" + base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, checksum))
		digest := sha256.Sum256([]byte(line + "\n"))
		b.WriteString(line + "\r\nx-amz-trailer-signature:" + chain("TRAILER", hex.EncodeToString(digest[:])) + "\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

func sign(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// FuzzDecodeChunks changes a signed body in any way. Either it is refused or what comes out is what was signed.
func FuzzDecodeChunks(f *testing.F) {
	f.Add([]byte("hello"), 3, false, 0, 0, []byte(nil))
	f.Add([]byte("hello"), 3, true, 2, 1, []byte("x"))
	f.Add([]byte("hello, world"), 100, true, 90, 3, []byte("8\r\n"))
	f.Add([]byte(nil), 1, false, 1, 5, []byte(";"))
	f.Add([]byte("aaaaaaaa"), 4, false, 86, 4, []byte("bbbb"))
	f.Fuzz(func(t *testing.T, content []byte, size int, trailer bool, at, remove int, insert []byte) {
		a := exampleAuth("4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9")
		body := encode(a, content, max(size, len(content)/16, 1), trailer)
		s := sigv4.Stream{Mode: sigv4.StreamSigned, Length: int64(len(content))}
		if trailer {
			s.Mode, s.Trailer = sigv4.StreamSignedTrailer, "x-amz-checksum-crc32"
		}
		got, _, err := sigv4.DecodeChunks(bytes.NewReader(body), a, exampleSecret, s)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("untouched: %q, %v, want %q", got, err, content)
		}
		at = min(max(at, 0), len(body))
		remove = min(max(remove, 0), len(body)-at)
		changed := append(append(bytes.Clone(body[:at]), insert...), body[at+remove:]...)
		got, _, err = sigv4.DecodeChunks(bytes.NewReader(changed), a, exampleSecret, s)
		if err == nil && !bytes.Equal(got, content) {
			t.Errorf("changed at %d: accepted as %q, signed was %q", at, got, content)
		}
		if err != nil && got != nil {
			t.Errorf("changed at %d: bytes came with the error %v", at, err)
		}
	})
}
