package s3

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// operation is what a request asks for.
type operation struct {
	bucket, key string // key of an object, "" for the bucket; both "" for the service
	sub         string // the subresource in the query
	action      string // IAM action without "s3:"
}

// permission is one thing that must be allowed.
type permission struct{ action, resource string }

func bucketARN(bucket string) string      { return "arn:aws:s3:::" + bucket }
func objectARN(bucket, key string) string { return "arn:aws:s3:::" + bucket + "/" + key }

// parseOperation reads the request exactly as the store will: leading slashes are dropped, all of them, and the query
// is Go's. Whatever it has no action for is refused, with the operation as far as it is known; the store must not
// find another meaning in it.
func parseOperation(r *http.Request) (operation, error) {
	var op operation
	op.bucket, op.key, _ = strings.Cut(strings.TrimLeft(r.URL.Path, "/"), "/")
	level := "object"
	switch {
	case op.bucket == "":
		level = "service"
	case op.key == "":
		level = "bucket"
	}
	q := r.URL.Query()
	for name := range q {
		if !isSubresource(name) {
			continue
		}
		if op.sub != "" {
			return op, fail(http.StatusBadRequest, "InvalidArgument", "Conflicting query string parameters: "+min(op.sub, name)+", "+max(op.sub, name))
		}
		op.sub = name
	}
	op.action = action(r.Method, level, op.sub)
	if op.action == "" && op.sub != "" {
		return op, fail(http.StatusNotImplemented, "NotImplemented", "A header or query you provided implies functionality that is not implemented.")
	}
	if op.action == "" {
		return op, fail(http.StatusMethodNotAllowed, "MethodNotAllowed", "The specified method is not allowed against this resource.",
			detail{"Method", r.Method}, detail{"ResourceType", strings.ToUpper(level)})
	}
	if op.sub == "uploadId" && q.Get("uploadId") == "" { // the store would take it for a plain request
		return op, fail(http.StatusBadRequest, "InvalidArgument", "This operation does not accept an empty upload-id.")
	}
	if !q.Has("versionId") {
		return op, nil
	}
	versioned := slices.Contains([]string{"GetObject", "DeleteObject", "GetObjectTagging", "PutObjectTagging", "DeleteObjectTagging"}, op.action)
	if !versioned || op.sub == "delete" {
		return op, fail(http.StatusBadRequest, "InvalidArgument", "This operation does not accept a version-id.")
	}
	if v := q.Get("versionId"); v != "" && v != "null" {
		op.action = strings.Replace(op.action, "Object", "ObjectVersion", 1)
	}
	return op, nil
}

// isSubresource says whether a query parameter changes what the request means. The rest are arguments.
func isSubresource(name string) bool {
	switch name {
	case "accelerate", "acl", "analytics", "attributes", "cors", "delete", "encryption", "intelligent-tiering",
		"inventory", "legal-hold", "lifecycle", "location", "logging", "metrics", "notification", "object-lock",
		"ownershipControls", "policy", "policyStatus", "publicAccessBlock", "renameObject", "replication",
		"requestPayment", "restore", "retention", "select", "session", "tagging", "torrent", "uploadId", "uploads",
		"versioning", "versions", "website":
		return true
	}
	return false
}

// action is the IAM action of an operation; "" for what is not there.
func action(method, level, sub string) string {
	if method == http.MethodHead {
		if sub != "" {
			return ""
		}
		method = http.MethodGet
	}
	switch method + " " + level + " " + sub {
	case "GET service ":
		return "ListAllMyBuckets"
	case "GET bucket ":
		return "ListBucket"
	case "GET bucket location":
		return "GetBucketLocation"
	case "GET bucket versions":
		return "ListBucketVersions"
	case "GET bucket uploads":
		return "ListBucketMultipartUploads"
	case "GET bucket versioning":
		return "GetBucketVersioning"
	case "PUT bucket versioning":
		return "PutBucketVersioning"
	case "PUT bucket ":
		return "CreateBucket"
	case "DELETE bucket ":
		return "DeleteBucket"
	case "GET object ", "GET object attributes":
		return "GetObject"
	case "PUT object ", "PUT object uploadId", "POST object uploads", "POST object uploadId":
		return "PutObject"
	case "DELETE object ", "POST bucket delete":
		return "DeleteObject"
	case "GET object uploadId":
		return "ListMultipartUploadParts"
	case "DELETE object uploadId":
		return "AbortMultipartUpload"
	case "GET object tagging":
		return "GetObjectTagging"
	case "PUT object tagging":
		return "PutObjectTagging"
	case "DELETE object tagging":
		return "DeleteObjectTagging"
	}
	return ""
}

// permissions lists all the operation needs. DeleteObjects needs none here: its keys are in the body and are
// authorized one by one.
func (op operation) permissions(r *http.Request) ([]permission, error) {
	action := "s3:" + op.action
	switch {
	case op.sub == "delete":
		return nil, nil
	case op.bucket == "":
		return []permission{{action, bucketARN("*")}}, nil
	case op.key == "":
		return []permission{{action, bucketARN(op.bucket)}}, nil
	}
	need := []permission{{action, objectARN(op.bucket, op.key)}}
	if op.sub == "attributes" {
		need = append(need, permission{"s3:GetObjectAttributes", objectARN(op.bucket, op.key)})
	}
	if r.Header.Get("X-Amz-Copy-Source") == "" || op.action != "PutObject" {
		return need, nil
	}
	bucket, key, err := copySource(r.Header)
	if err != nil {
		return nil, err
	}
	return append(need, permission{"s3:GetObject", objectARN(bucket, key)}), nil
}

// copySource reads what is to be copied, and writes the header anew so that the store cannot read another object
// out of it.
func copySource(h http.Header) (bucket, key string, err error) {
	bucket, rest, ok := strings.Cut(strings.TrimPrefix(h.Get("X-Amz-Copy-Source"), "/"), "/")
	rest, _, versioned := strings.Cut(rest, "?")
	key, uerr := url.QueryUnescape(rest)
	switch {
	case !ok || uerr != nil || bucket == "" || key == "" || strings.ContainsAny(bucket, "%?"):
		return "", "", fail(http.StatusBadRequest, "InvalidArgument", "Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
	case versioned:
		return "", "", fail(http.StatusNotImplemented, "NotImplemented", "A header you provided implies functionality that is not implemented.")
	}
	h.Set("X-Amz-Copy-Source", bucket+"/"+url.QueryEscape(key))
	return bucket, key, nil
}
