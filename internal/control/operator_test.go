package control_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/internal/secret"
)

// operator is an Operator of functions.
type operator struct {
	roles       []control.Role
	check       func(role string) (control.CheckReply, error)
	credentials func(r control.CredentialsRequest, p control.Peer) (control.CredentialsReply, error)
}

func (o operator) Roles(context.Context) ([]control.Role, error) { return o.roles, nil }

func (o operator) Check(_ context.Context, role string) (control.CheckReply, error) {
	return o.check(role)
}

func (o operator) Credentials(_ context.Context, r control.CredentialsRequest, p control.Peer) (control.CredentialsReply, error) {
	return o.credentials(r, p)
}

func TestRolesOfAnySizeComeInOrder(t *testing.T) {
	var all []control.Role
	for i := range 700 {
		all = append(all, control.Role{Name: fmt.Sprintf("role-%03d", i), ARN: "arn:" + strings.Repeat("x", 300), Allow: []string{"any container"}})
	}
	shuffled := append(append([]control.Role{}, all[350:]...), all[:350]...)
	path, _ := newSocket(t, handler{}, control.WithOperator(operator{roles: shuffled}))
	got, err := control.Roles(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, got); diff != "" {
		t.Errorf("roles (-want +got):\n%s", diff)
	}
}

func TestCheckTellsTheOutcomeOrTheFault(t *testing.T) {
	denied := fault.New(fault.STSDenied, "AWS refuses", "let it")
	path, _ := newSocket(t, handler{}, control.WithOperator(operator{check: func(role string) (control.CheckReply, error) {
		if role == "good" {
			return control.CheckReply{Role: role, Session: "good-check"}, nil
		}
		return control.CheckReply{}, denied
	}}))
	if got, err := control.Check(t.Context(), path, "good"); err != nil || got.Session != "good-check" {
		t.Errorf("Check = %+v, %v", got, err)
	}
	if _, err := control.Check(t.Context(), path, "bad"); err == nil || err.Error() != denied.Error() {
		t.Errorf("Check = %v, want %v", err, denied)
	}
}

func TestCredentialsReachWhoAskedAndNobodyElse(t *testing.T) {
	want := control.CredentialsReply{Session: "reader-env", Region: "eu-central-1", Credentials: secret.Credentials{
		AccessKeyID: "ASIAX", SecretAccessKey: secret.New("the/secret+key"), SessionToken: secret.New("the-token=="),
		Expires: time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC), AccountID: "123456789012", RoleARN: "arn:aws:iam::123456789012:role/r",
	}}
	type question struct {
		asked control.CredentialsRequest
		by    control.Peer
	}
	questions := make(chan question, 1)
	path, _ := newSocket(t, handler{}, control.WithOperator(operator{
		credentials: func(r control.CredentialsRequest, p control.Peer) (control.CredentialsReply, error) {
			questions <- question{r, p}
			return want, nil
		},
	}))
	r := control.CredentialsRequest{Role: "reader", Use: "env"}
	got, err := control.Credentials(t.Context(), path, r)
	if err != nil {
		t.Fatal(err)
	}
	g, w := got.Credentials, want.Credentials
	if !g.SecretAccessKey.Equal(w.SecretAccessKey) || !g.SessionToken.Equal(w.SessionToken) {
		t.Error("the secrets did not arrive")
	}
	g.SecretAccessKey, g.SessionToken, w.SecretAccessKey, w.SessionToken = secret.Value{}, secret.Value{}, secret.Value{}, secret.Value{}
	if g != w || got.Session != want.Session || got.Region != want.Region {
		t.Errorf("reply = %+v", got)
	}
	if q := <-questions; q.asked != r || q.by.UID != uint32(os.Getuid()) || int(q.by.PID) != os.Getpid() {
		t.Errorf("asked for %+v by %+v", q.asked, q.by)
	}
}

func TestIncompleteCredentialsAreNoAnswer(t *testing.T) {
	path, _ := newSocket(t, handler{}, control.WithOperator(operator{
		credentials: func(control.CredentialsRequest, control.Peer) (control.CredentialsReply, error) {
			return control.CredentialsReply{Credentials: secret.Credentials{AccessKeyID: "ASIAX", SecretAccessKey: secret.New("s"), Expires: time.Now()}}, nil
		},
	}))
	if c, err := control.Credentials(t.Context(), path, control.CredentialsRequest{Role: "r", Use: "env"}); fault.CodeOf(err) != fault.CredentialsNotReady {
		t.Errorf("Credentials = %v, %v, want %s", c, err, fault.CredentialsNotReady)
	}
}

func TestOperatorsRequestsAreChecked(t *testing.T) {
	path, _ := newSocket(t, handler{}, control.WithOperator(operator{}))
	for _, r := range []control.CredentialsRequest{
		{Role: "", Use: "env"},
		{Role: "r", Use: ""},
		{Role: "r", Use: "ENV"},
		{Role: "r", Use: "-e"},
		{Role: "r", Use: strings.Repeat("e", 17)},
		{Role: "a\nb", Use: "env"},
	} {
		if _, err := control.Credentials(t.Context(), path, r); fault.CodeOf(err) != fault.RequestInvalid {
			t.Errorf("Credentials(%+v) = %v, want %s", r, err, fault.RequestInvalid)
		}
	}
	if _, err := control.Check(t.Context(), path, ""); fault.CodeOf(err) != fault.RequestInvalid {
		t.Errorf("Check = %v, want %s", err, fault.RequestInvalid)
	}
}

func TestOnlyRootIsHandedCredentials(t *testing.T) {
	refusal := fault.New(fault.PermissionDenied, "no", "")
	path, _ := newSocket(t, handler{}, control.WithPeers(func(uint32) error { return refusal }), control.WithOperator(operator{
		credentials: func(control.CredentialsRequest, control.Peer) (control.CredentialsReply, error) {
			t.Error("the agent was asked on behalf of a stranger")
			return control.CredentialsReply{}, nil
		},
	}))
	if _, err := control.Credentials(t.Context(), path, control.CredentialsRequest{Role: "r", Use: "env"}); fault.CodeOf(err) != fault.PermissionDenied {
		t.Errorf("Credentials = %v, want %s", err, fault.PermissionDenied)
	}
}

func TestWithoutAnOperatorPeopleAreRefused(t *testing.T) {
	path, _ := newSocket(t, handler{})
	if _, err := control.Roles(t.Context(), path); fault.CodeOf(err) != fault.RequestInvalid {
		t.Errorf("Roles = %v, want %s", err, fault.RequestInvalid)
	}
}
