// The program lists a bucket twice with what the default chain of the AWS SDK for Go v2 finds, and says who it was.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func main() {
	start := time.Now()
	wait, _ := strconv.Atoi(os.Getenv("CONFORMANCE_WAIT"))
	ctx := context.Background()
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		fmt.Println("round=1 error=" + strings.Join(strings.Fields(err.Error()), " "))
		return
	}
	for n := 1; n <= 2; n++ {
		text, err := round(ctx, cfg, start)
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

func round(ctx context.Context, cfg aws.Config, start time.Time) (string, error) {
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		return "", err
	}
	ms := time.Since(start).Milliseconds()
	bucket := os.Getenv("CONFORMANCE_BUCKET")
	list, err := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true }).ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &bucket})
	if err != nil {
		return "", err
	}
	who, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, nil)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("ms=%d sdk=aws-sdk-go-v2/%s arn=%s key=%s", ms, aws.SDKVersion, *who.Arn, *list.Contents[0].Key), nil
}
