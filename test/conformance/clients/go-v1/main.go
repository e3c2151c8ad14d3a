// The program lists a bucket twice with what the default chain of the AWS SDK for Go v1 finds, and says who it was.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/session"
	"github.com/aws/aws-sdk-go/service/s3"
	"github.com/aws/aws-sdk-go/service/sts"
)

func main() {
	start := time.Now()
	wait, _ := strconv.Atoi(os.Getenv("CONFORMANCE_WAIT"))
	sess, err := session.NewSession(aws.NewConfig().
		WithEndpoint(os.Getenv("AWS_ENDPOINT_URL")).WithS3ForcePathStyle(true))
	if err != nil {
		fmt.Println("round=1 error=" + strings.Join(strings.Fields(err.Error()), " "))
		return
	}
	for n := 1; n <= 2; n++ {
		text, err := round(sess, start)
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

func round(sess *session.Session, start time.Time) (string, error) {
	if _, err := sess.Config.Credentials.Get(); err != nil {
		return "", err
	}
	ms := time.Since(start).Milliseconds()
	list, err := s3.New(sess).ListObjectsV2(&s3.ListObjectsV2Input{Bucket: aws.String(os.Getenv("CONFORMANCE_BUCKET"))})
	if err != nil {
		return "", err
	}
	who, err := sts.New(sess).GetCallerIdentity(nil)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("ms=%d sdk=%s/%s arn=%s key=%s", ms, aws.SDKName, aws.SDKVersion, *who.Arn, *list.Contents[0].Key), nil
}
