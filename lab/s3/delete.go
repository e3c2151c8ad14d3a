package s3

import (
	"bytes"
	"crypto/md5" //nolint:gosec // Content-MD5 is part of the protocol
	"encoding/base64"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
)

// maxDelete is how many keys DeleteObjects takes.
const maxDelete = 1000

type deletion struct {
	Key       string
	VersionID string `xml:"VersionId,omitempty"`
}

type deleteRequest struct {
	XMLName xml.Name   `xml:"Delete"`
	Objects []deletion `xml:"Object"`
	Quiet   bool
}

// deleteObjects authorizes each key on its own. The store gets only the allowed ones, in a document written anew so
// that its parser cannot see other keys than ours did; the refused ones join its answer as errors, as in S3, where
// the call itself succeeds.
func (c *call) deleteObjects(w *recorder) error {
	body, err := io.ReadAll(c.r.Body)
	if err != nil {
		return err
	}
	var req deleteRequest
	if xml.Unmarshal(body, &req) != nil || len(req.Objects) == 0 || len(req.Objects) > maxDelete {
		return fail(http.StatusBadRequest, "MalformedXML", "The XML you provided was not well-formed or did not validate against our published schema")
	}
	refused := []byte{}
	allowed := req.Objects[:0]
	for _, o := range req.Objects {
		action := "s3:DeleteObject"
		if o.VersionID != "" && o.VersionID != "null" {
			action = "s3:DeleteObjectVersion"
		}
		var denied *Error
		err := c.authorize(permission{action, objectARN(c.op.bucket, o.Key)})
		switch {
		case err == nil:
			allowed = append(allowed, o)
		case errors.As(err, &denied):
			refused = append(refused, "<Error><Key>"+escape(o.Key)+"</Key><Code>AccessDenied</Code><Message>"+escape(denied.Message)+"</Message></Error>"...)
		default:
			return err
		}
	}
	req.Objects = allowed
	return c.deleteAllowed(w, req, refused)
}

func (c *call) deleteAllowed(w *recorder, req deleteRequest, refused []byte) error {
	const end = "</DeleteResult>"
	answer := []byte(`<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">` + end)
	if len(req.Objects) > 0 {
		body, err := xml.Marshal(req)
		if err != nil {
			return err
		}
		c.setBody(body)
		digest := md5.Sum(body) //nolint:gosec // see the import
		c.r.Header.Set("Content-Md5", base64.StdEncoding.EncodeToString(digest[:]))
		c.dropChecksums() // they were of the whole list, and have been verified by its hash
		held := &held{header: w.Header().Clone(), status: http.StatusOK}
		c.store.ServeHTTP(held, c.r)
		maps.Copy(w.Header(), held.header)
		answer = held.body.Bytes()
		if held.status != http.StatusOK || !bytes.Contains(answer, []byte(end)) {
			c.event.Status = held.status
			w.WriteHeader(held.status)
			_, err := w.Write(answer)
			return err
		}
	}
	at := bytes.LastIndex(answer, []byte(end))
	merged := append(append(bytes.Clone(answer[:at]), refused...), end...)
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Content-Length", strconv.Itoa(len(merged)))
	c.event.Status = http.StatusOK
	_, err := w.Write(merged)
	return err
}

func (c *call) dropChecksums() {
	for _, name := range []string{"Crc32", "Crc32c", "Crc64nvme", "Sha1", "Sha256"} {
		c.r.Header.Del("X-Amz-Checksum-" + name)
	}
	c.r.Header.Del("X-Amz-Sdk-Checksum-Algorithm")
}

// held keeps an answer back.
type held struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (h *held) Header() http.Header         { return h.header }
func (h *held) WriteHeader(status int)      { h.status = status }
func (h *held) Write(b []byte) (int, error) { return h.body.Write(b) }
