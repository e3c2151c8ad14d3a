package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"taskrole/lab/probe/report"
)

// born is about when the process began, some milliseconds at most after its exec.
var born = time.Now()

const (
	// metadataService is where a container asks who it is.
	metadataService = "http://169.254.169.254/latest/"
	// between is how often it asks at most: as a client that hurries, but leaves the machine to others.
	between = 200 * time.Microsecond
	// unanswered is for how long one question waits. On a network without routes it fails at once.
	unanswered = 50 * time.Millisecond
)

// race asks the metadata service from the first moment on, until it names the wanted role, and writes a report.Race.
func race(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("expected the name of a role")
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: unanswered}
	var r report.Race
	tick := time.NewTicker(between)
	defer tick.Stop()
	for {
		role, err := roleName(ctx, client)
		since := time.Since(born).Seconds()
		switch {
		case err != nil:
			r.Unanswered++
		case r.First == "":
			r.First, r.FirstSeconds = role, since
		}
		if err == nil && role == args[0] {
			r.Seconds = since
			return json.NewEncoder(out).Encode(r)
		}
		if err == nil {
			r.Others++
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the role %s was never there: %w", args[0], ctx.Err())
		case <-tick.C:
		}
	}
}

// roleName asks as IMDSv2 wants it.
func roleName(ctx context.Context, client *http.Client) (string, error) {
	token, err := metadata(ctx, client, http.MethodPut, "api/token", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
	if err != nil {
		return "", err
	}
	return metadata(ctx, client, http.MethodGet, "meta-data/iam/security-credentials/", "X-Aws-Ec2-Metadata-Token", token)
}

func metadata(ctx context.Context, client *http.Client, method, path, key, value string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, metadataService+path, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set(key, value)
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, bodyLimit))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return strings.TrimSpace(string(body)), err
}
