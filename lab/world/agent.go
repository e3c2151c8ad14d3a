package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"taskrole/lab/cloud"
)

// agentPatience bounds how long the agent may take to listen, and to end.
const agentPatience = 10 * time.Second

// configuration is the agent's file, as an administrator would write it for this instance.
func (w *World) configuration() string {
	engine, allow := "none", "{any: true}"
	if w.Docker != nil {
		engine, allow = w.Docker.Host(), `{image: "`+Ours+`*"}`
	}
	return strings.NewReplacer(
		"ACCOUNT", cloud.AccountID, "REGION", w.Cloud.Region(), "SOCKET", w.Socket, "RUNTIME", w.Programs.Runtime,
		"CDI", filepath.Dir(w.spec()), "ENGINE", engine, "SERVICES", w.Instance.ServicesURL(), "READER", cloud.RoleARN(cloud.TaskReader),
		"ALLOW", allow, "ISOLATED", IsolatedRole, "ROLE", Role,
	).Replace(`# The agent's configuration on the simulated instance.
account: "ACCOUNT"
region: REGION
socket: SOCKET
runtime: RUNTIME
cdi: {dir: CDI}
engines: {docker: "ENGINE"}
sts: {endpoint: "SERVICES"}
roles:
  ROLE:
    arn: READER
    allow: [ALLOW]
  # The same role for containers without a network: a way out, to the account's services and nowhere else.
  ISOLATED:
    arn: READER
    egress: {endpoints: ["SERVICES"]}
    allow: [ALLOW]
`)
}

// startAgent starts the agent as a process of the instance and waits until it listens.
func (w *World) startAgent(ctx context.Context) (err error) {
	if err := os.WriteFile(w.Config, []byte(w.configuration()), 0o600); err != nil {
		return fmt.Errorf("write the agent's configuration: %w", err)
	}
	w.AgentLog = filepath.Join(w.dir, "agent.log")
	if w.agentLog, err = os.OpenFile(w.AgentLog, os.O_CREATE|os.O_EXCL|os.O_RDWR|os.O_APPEND, 0o600); err != nil {
		return fmt.Errorf("open the agent's log: %w", err)
	}
	// Not ended with ctx: it must outlive the containers, and stopAgent ends it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), w.Programs.Agent, "agent", "--config", w.Config)
	cmd.Stdout, cmd.Stderr = w.agentLog, w.agentLog
	if err := w.Instance.Start(cmd); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	w.agent, w.agentDone = cmd, make(chan struct{})
	go func() {
		defer close(w.agentDone)
		_ = cmd.Wait() // how it ended is in its log, and a world without an agent fails at every row
	}()
	return w.awaitAgent(ctx)
}

func (w *World) awaitAgent(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, agentPatience, errors.New("it does not get ready"))
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		// The document that engines read comes after the socket, so it says that both are there.
		if _, err := os.Stat(w.spec()); err == nil {
			return nil
		}
		select {
		case <-w.agentDone:
			return fmt.Errorf("the agent ended: %s", w.agentWords())
		case <-ctx.Done():
			return fmt.Errorf("start the agent: %w: %s", context.Cause(ctx), w.agentWords())
		case <-tick.C:
		}
	}
}

// agentWords is the end of the agent's log.
func (w *World) agentWords() string {
	b, err := os.ReadFile(w.AgentLog)
	if err != nil {
		return err.Error()
	}
	const most = 1500
	return strings.TrimSpace(string(b[max(0, len(b)-most):]))
}

func (w *World) stopAgent() {
	if w.agent != nil {
		_ = w.agent.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-w.agentDone:
		case <-time.After(agentPatience):
			_ = w.agent.Process.Kill()
			<-w.agentDone
		}
		w.agent = nil
	}
	if w.agentLog != nil {
		_ = w.agentLog.Close() // nobody reads it any more
		w.agentLog = nil
	}
}

// AgentComplaints are the last lines of the agent's log that say that something went wrong.
func (w *World) AgentComplaints() []string {
	b, err := os.ReadFile(w.AgentLog)
	if err != nil {
		return []string{err.Error()}
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "WARN") || strings.Contains(line, "ERROR") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	const most = 10
	return lines[max(0, len(lines)-most):]
}
