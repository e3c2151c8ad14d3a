// The program lists a bucket twice with what minio-go finds by itself. It has no STS client for GetCallerIdentity.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

func main() {
	start := time.Now()
	wait, _ := strconv.Atoi(os.Getenv("CONFORMANCE_WAIT"))
	// What its documentation shows for EC2, ECS and EKS.
	found := credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.IAM{}})
	endpoint, err := url.Parse(os.Getenv("AWS_ENDPOINT_URL"))
	if err != nil {
		fmt.Println("round=1 error=" + err.Error())
		return
	}
	client, err := minio.New(endpoint.Host, &minio.Options{
		Creds: found, Region: os.Getenv("AWS_REGION"), BucketLookup: minio.BucketLookupPath, Transport: http.DefaultTransport,
	})
	if err != nil {
		fmt.Println("round=1 error=" + err.Error())
		return
	}
	for n := 1; n <= 2; n++ {
		text, err := round(client, found, start)
		if err != nil {
			text = "error=" + strings.Join(strings.Fields(err.Error()), " ")
		}
		fmt.Printf("round=%d %s\n", n, text)
		if n == 1 {
			if wait == 0 {
				return
			}
			time.Sleep(time.Duration(wait) * time.Second)
		}
	}
}

func round(client *minio.Client, found *credentials.Credentials, start time.Time) (string, error) {
	v, err := found.GetWithContext(nil)
	switch {
	case err != nil:
		return "", err
	case v.AccessKeyID == "":
		return "", errors.New("no credentials were found") // the chain falls back to anonymous
	}
	ms := time.Since(start).Milliseconds()
	for o := range client.ListObjects(context.Background(), os.Getenv("CONFORMANCE_BUCKET"), minio.ListObjectsOptions{Prefix: "2026/"}) {
		if o.Err != nil {
			return "", o.Err
		}
		return fmt.Sprintf("ms=%d sdk=minio-go/%s key=%s", ms, version(), o.Key), nil
	}
	return "", errors.New("the bucket is empty")
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if strings.HasPrefix(d.Path, "github.com/minio/minio-go") {
				return d.Version
			}
		}
	}
	return "unknown"
}
