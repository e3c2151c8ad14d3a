package cloud_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"

	"taskrole/lab/cloud"
)

// code is AWS's error code of err.
func code(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return ""
}

func TestObjectsGoInAndComeOutUnchanged(t *testing.T) {
	l := newLab(t, cloud.Options{})
	client := l.s3(l.assume(cloud.TaskWriter))
	big := bytes.Repeat([]byte("0123456789abcdef"), 400_000) // more than one part
	for name, content := range map[string][]byte{"empty": {}, "a b+c/ü~(1).txt": []byte("odd name"), "big": big} {
		if _, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(cloud.Uploads), Key: aws.String(name), Body: bytes.NewReader(content)}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(cloud.Uploads), Key: aws.String(name)})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := io.ReadAll(out.Body) // checks the checksum too
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(content))
		}
	}
	if _, err := client.DeleteObjects(t.Context(), &s3.DeleteObjectsInput{Bucket: aws.String(cloud.Uploads), Delete: &s3types.Delete{
		Objects: []s3types.ObjectIdentifier{{Key: aws.String("empty")}, {Key: aws.String("big")}},
	}}); err != nil {
		t.Error(err)
	}
	list, err := client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String(cloud.Uploads)})
	if err != nil || len(list.Contents) != 2 {
		t.Errorf("ListObjectsV2 = %+v, %v; want hello.txt and the odd name", list, err)
	}
}

func TestMultipartUpload(t *testing.T) {
	l := newLab(t, cloud.Options{})
	client := l.s3(l.assume(cloud.TaskWriter))
	bucket, key := aws.String(cloud.Uploads), aws.String("parts")
	up, err := client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: bucket, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	var parts []s3types.CompletedPart
	for i, n := range []int{5 << 20, 10} {
		part, err := client.UploadPart(t.Context(), &s3.UploadPartInput{
			Bucket: bucket, Key: key, UploadId: up.UploadId, PartNumber: aws.Int32(int32(i + 1)), Body: bytes.NewReader(make([]byte, n)),
		})
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, s3types.CompletedPart{ETag: part.ETag, PartNumber: aws.Int32(int32(i + 1)), ChecksumCRC32: part.ChecksumCRC32})
	}
	_, err = client.CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{
		Bucket: bucket, Key: key, UploadId: up.UploadId, MultipartUpload: &s3types.CompletedMultipartUpload{Parts: parts},
	})
	if err != nil {
		t.Fatal(err)
	}
	head, err := client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: bucket, Key: key})
	if err != nil || aws.ToInt64(head.ContentLength) != 5<<20+10 {
		t.Errorf("HeadObject = %+v, %v", head, err)
	}
}

// Over TLS the SDK sends a body that it cannot rewind in chunks with a checksum behind it.
func TestStreamedUploadOverTLS(t *testing.T) {
	l := newLab(t, cloud.Options{})
	var mode atomic.Value
	spoil := false
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			mode.Store(r.Header.Get("X-Amz-Content-Sha256"))
			if spoil {
				b, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(bytes.Replace(b, []byte("streamed"), []byte("strEamed"), 1)))
			}
		}
		l.Services().ServeHTTP(w, r)
	}))
	defer server.Close()
	creds, err := l.assume(cloud.TaskWriter).Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client := s3.New(s3.Options{
		Region: l.Region(), BaseEndpoint: aws.String(server.URL), Credentials: static(creds), Retryer: aws.NopRetryer{}, UsePathStyle: true,
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported, // the default of config.LoadDefaultConfig
		HTTPClient:                 &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}}},
	})
	put := func() error {
		_, err := client.PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: aws.String(cloud.Uploads), Key: aws.String("stream"), Body: io.MultiReader(strings.NewReader("streamed")), ContentLength: aws.Int64(8),
		})
		return err
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	if mode.Load() != "STREAMING-UNSIGNED-PAYLOAD-TRAILER" {
		t.Fatalf("the SDK sent %v: this test tests nothing", mode.Load())
	}
	out, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(cloud.Uploads), Key: aws.String("stream"), ChecksumMode: s3types.ChecksumModeEnabled})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(out.Body); err != nil || string(got) != "streamed" || aws.ToString(out.ChecksumCRC32) == "" {
		t.Errorf("got %q, %v, checksum %v", got, err, aws.ToString(out.ChecksumCRC32))
	}
	spoil = true
	if err := put(); code(err) != "BadDigest" {
		t.Errorf("changed on the way: %v, want BadDigest", err)
	}
}

func TestPresignedURLs(t *testing.T) {
	now := time.Now()
	var offset atomic.Int64
	l := newLab(t, cloud.Options{Now: func() time.Time { return now.Add(time.Duration(offset.Load())) }})
	presigner := s3.NewPresignClient(l.s3(l.assume(cloud.TaskWriter)), s3.WithPresignExpires(5*time.Minute))
	put, err := presigner.PresignPutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(cloud.Uploads), Key: aws.String("presigned key")})
	if err != nil {
		t.Fatal(err)
	}
	get, err := presigner.PresignGetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(cloud.Uploads), Key: aws.String("presigned key")})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		method, url, body string
		after             time.Duration
		want              string
	}{
		{http.MethodPut, put.URL, "content", 0, "200"},
		{http.MethodGet, get.URL, "", 0, "content"},
		{http.MethodDelete, get.URL, "", 0, "SignatureDoesNotMatch"},
		{http.MethodGet, get.URL + "&versionId=1", "", 0, "SignatureDoesNotMatch"},
		{http.MethodGet, get.URL, "", 6 * time.Minute, "Request has expired"},
		{http.MethodGet, get.URL, "", 2 * time.Hour, "Request has expired"},
	} {
		offset.Store(int64(step.after))
		req, err := http.NewRequestWithContext(t.Context(), step.method, step.url, strings.NewReader(step.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if got := resp.Status + string(b); !strings.Contains(got, step.want) {
			t.Errorf("%s after %v: %s, want %s", step.method, step.after, got, step.want)
		}
	}
}

// The SDK takes the server's Date and tries again: the reason why a skewed clock is often not noticed.
func TestSDKCorrectsItsClock(t *testing.T) {
	l := newLab(t, cloud.Options{Now: func() time.Time { return time.Now().Add(time.Hour) }})
	creds, err := l.instance().Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.s3(static(creds)).ListBuckets(t.Context(), nil); code(err) != "RequestTimeTooSkewed" {
		t.Errorf("S3, no retry: %v, want RequestTimeTooSkewed", err)
	}
	if _, err := l.sts(static(creds)).GetCallerIdentity(t.Context(), nil); code(err) != "SignatureDoesNotMatch" || !strings.Contains(err.Error(), "Signature expired") {
		t.Errorf("STS, no retry: %v, want a signature that expired", err)
	}
	retrying := s3.New(s3.Options{Region: l.Region(), BaseEndpoint: aws.String(l.services), Credentials: static(creds), UsePathStyle: true})
	if _, err := retrying.ListBuckets(t.Context(), nil); err != nil {
		t.Errorf("S3 with retries: %v, want none", err)
	}
}

func TestSessionTagsThroughTheSDK(t *testing.T) {
	l := newLab(t, cloud.Options{})
	out, err := l.sts(l.instance()).AssumeRole(t.Context(), &sts.AssumeRoleInput{
		RoleArn: aws.String(cloud.RoleARN(cloud.TaskReader)), RoleSessionName: aws.String("tagged"), DurationSeconds: aws.Int32(900),
		Tags:              []ststypes.Tag{{Key: aws.String("container"), Value: aws.String("web")}},
		TransitiveTagKeys: []string{"container"},
		Policy:            aws.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:ListAllMyBuckets","Resource":"*"}]}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	c := out.Credentials
	if left := time.Until(*c.Expiration); left > 15*time.Minute || left < 14*time.Minute {
		t.Errorf("answer = %+v", out)
	}
	session := static(aws.Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken})
	if _, err := l.s3(session).ListBuckets(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if _, err := l.s3(session).GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String(cloud.Reports), Key: aws.String("2026/november.csv")}); code(err) != "AccessDenied" || !strings.Contains(err.Error(), "no session policy allows") {
		t.Errorf("GetObject: %v, want a refusal by the session policy", err)
	}
	_, err = l.sts(l.instance()).AssumeRole(t.Context(), &sts.AssumeRoleInput{
		RoleArn: aws.String(cloud.RoleARN(cloud.TaskReader)), RoleSessionName: aws.String("long"), DurationSeconds: aws.Int32(3601),
	})
	if code(err) != "ValidationError" || !strings.Contains(err.Error(), "role chaining") {
		t.Errorf("more than an hour from the instance: %v, want the limit of role chaining", err)
	}
}
