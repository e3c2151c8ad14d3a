package cloud

import (
	"context"
	"errors"
	"strings"
	"time"

	"taskrole/lab/iam"
)

const trustEC2 = `{"Version": "2012-10-17", "Statement": [
	{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
]}`

// trustInstance is what the manual tells people to write.
const trustInstance = `{"Version": "2012-10-17", "Statement": [
	{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::ACCOUNT:role/INSTANCE"}, "Action": ["sts:AssumeRole", "sts:TagSession"]}
]}`

const trustWithExternalID = `{"Version": "2012-10-17", "Statement": [
	{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::ACCOUNT:role/INSTANCE"}, "Action": "sts:AssumeRole",
	 "Condition": {"StringEquals": {"sts:ExternalId": "EXTERNAL"}}},
	{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::ACCOUNT:role/INSTANCE"}, "Action": "sts:TagSession"}
]}`

const instancePolicy = `{"Version": "2012-10-17", "Statement": [
	{"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"},
	{"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": "arn:aws:s3:::taskrole-demo-*"},
	{"Effect": "Allow", "Action": ["sts:AssumeRole", "sts:TagSession"], "Resource": "arn:aws:iam::ACCOUNT:role/task-*"},
	{"Effect": "Deny", "Action": "sts:AssumeRole", "Resource": "arn:aws:iam::ACCOUNT:role/task-denied"}
]}`

const readerPolicy = `{"Version": "2012-10-17", "Statement": [
	{"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"},
	{"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation", "s3:GetObject"],
	 "Resource": ["arn:aws:s3:::taskrole-demo-*", "arn:aws:s3:::taskrole-demo-*/*"]}
]}`

const writerPolicy = `{"Version": "2012-10-17", "Statement": [
	{"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"},
	{"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"],
	 "Resource": "arn:aws:s3:::taskrole-demo-uploads"},
	{"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
	 "Resource": "arn:aws:s3:::taskrole-demo-uploads/*"}
]}`

// addRoles fills the account.
func (c *Cloud) addRoles() error {
	var errs []error
	for _, r := range []struct{ name, trust, policy string }{
		{InstanceRole, trustEC2, instancePolicy},
		{TaskReader, trustInstance, readerPolicy},
		{TaskWriter, trustInstance, writerPolicy},
		{TaskExternal, trustWithExternalID, readerPolicy},
		{TaskUntrusted, trustEC2, readerPolicy},
	} {
		fill := strings.NewReplacer("ACCOUNT", AccountID, "INSTANCE", InstanceRole, "EXTERNAL", ExternalID)
		trust, err1 := iam.ParseTrust(fill.Replace(r.trust))
		policy, err2 := iam.ParsePolicy(fill.Replace(r.policy))
		role, err3 := c.account.AddRole(iam.Role{Name: r.name, MaxSession: 12 * time.Hour, Trust: trust, Policies: []iam.Document{policy}})
		errs = append(errs, err1, err2, err3)
		if r.name == InstanceRole {
			c.role = role
		}
	}
	return errors.Join(errs...)
}

// seed fills the buckets.
func (c *Cloud) seed() error {
	ctx := context.Background() // memory only: nothing to wait for
	return errors.Join(
		c.s3.Seed(ctx, Reports, "2026/november.csv", []byte("day,containers\n1,42\n2,57\n")),
		c.s3.Seed(ctx, Uploads, "hello.txt", []byte("hello from the laboratory\n")),
	)
}
