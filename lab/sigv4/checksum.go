package sigv4

import (
	"crypto/sha1" //nolint:gosec // one of the checksums S3 offers; it protects nothing here
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"hash/crc32"
	"hash/crc64"
)

// crc64NVME is the reflected polynomial of CRC-64/NVME, the SDKs' newest default.
const crc64NVME = 0x9a6c9329ac4bc9b5

// newChecksum makes the hash of an x-amz-checksum-* header; nil when there is no such header.
func newChecksum(header string) hash.Hash {
	switch header {
	case "x-amz-checksum-crc32":
		return crc32.NewIEEE()
	case "x-amz-checksum-crc32c":
		return crc32.New(crc32.MakeTable(crc32.Castagnoli))
	case "x-amz-checksum-crc64nvme":
		return crc64.New(crc64.MakeTable(crc64NVME))
	case "x-amz-checksum-sha1":
		return sha1.New() //nolint:gosec // see the import
	case "x-amz-checksum-sha256":
		return sha256.New()
	}
	return nil
}

func encodeChecksum(h hash.Hash) string { return base64.StdEncoding.EncodeToString(h.Sum(nil)) }
