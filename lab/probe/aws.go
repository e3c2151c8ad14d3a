package main

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"taskrole/lab/probe/report"
)

// identity asks STS who we are and S3 which buckets there are, and writes a report.Report.
func identity(ctx context.Context, _ []string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	start := time.Now()
	r := ask(ctx)
	r.Seconds = time.Since(start).Seconds()
	if err := json.NewEncoder(out).Encode(r); err != nil {
		return err
	}
	if r.Errors.First() != "" {
		return errReported
	}
	return nil
}

func ask(ctx context.Context) report.Report {
	var r report.Report
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		r.Errors.Credentials = err.Error()
		return r
	}
	// Asked for by itself first: a client without credentials looks for them again at every call, and the time-outs
	// would be counted several times.
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		r.Errors.Credentials = err.Error()
		return r
	}
	if id, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}); err != nil {
		r.Errors.STS = err.Error()
	} else {
		r.ARN = aws.ToString(id.Arn)
	}
	list, err := s3.NewFromConfig(cfg).ListBuckets(ctx, &s3.ListBucketsInput{})
	if err != nil {
		r.Errors.S3 = err.Error()
		return r
	}
	r.Buckets = []string{}
	for _, b := range list.Buckets {
		r.Buckets = append(r.Buckets, aws.ToString(b.Name))
	}
	return r
}

// keys writes a report.Keys: what somebody would copy out of `aws configure export-credentials`.
func keys(ctx context.Context, _ []string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return err
	}
	c, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(report.Keys{ //nolint:gosec // copying them is what this step is for
		AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken,
	})
}
