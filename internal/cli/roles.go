package cli

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"taskrole/internal/config"
	"taskrole/internal/control"
	"taskrole/internal/fault"
	"taskrole/internal/table"
)

const (
	askLimit = 10 * time.Second
	// checkLimit is for one role: longer than the agent waits for STS and for its turn.
	checkLimit = 70 * time.Second
	// checksAtOnce is how many roles are tried together. The agent's cap of calls to STS holds besides.
	checksAtOnce = 8
)

func newRoles(o Options) *cobra.Command {
	var configPath string
	var check, asJSON bool
	c := &cobra.Command{
		Use:   "roles",
		Short: "List the roles that containers may be given",
		Long: `Lists the roles of the running agent. Where no agent runs, those of its configuration file.
With --check the agent asks AWS for a session of each role, and the exit status is 1 if
there is one that it does not get.`,
		Example: `  taskrole roles
  taskrole roles --check
  taskrole roles --json | jq -r '.roles[].name'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			roles, err := askRoles(c.Context(), o, configPath, check)
			switch {
			case err != nil:
				return err
			case check:
				return checkRoles(c.Context(), o, configPath, roles, asJSON)
			case asJSON:
				return printJSON(o.Stdout, rolesAnswer(roles, nil))
			}
			return printText(o.Stdout, table.Format(roleColumns, roleRows(roles), window(o.Stdout)))
		},
	}
	configFlag(c, &configPath)
	c.Flags().BoolVar(&check, "check", false, "try each role at AWS")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// askRoles asks the agent for its roles. Without an agent they come from the file, which is said; needAgent forbids that.
func askRoles(ctx context.Context, o Options, configPath string, needAgent bool) ([]control.Role, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	socket := socketOf(configPath)
	roles, err := control.Roles(ctx, socket)
	if err == nil || needAgent {
		return roles, err
	}
	if code := fault.CodeOf(err); code != fault.AgentUnreachable && code != fault.PermissionDenied {
		return nil, err
	}
	cfg, loadErr := config.Load(configPath)
	if loadErr != nil {
		return nil, err // what the file says is another question: "taskrole config check"
	}
	note(o.Stderr, fmt.Sprintf("%s; these are the roles of %s", fault.As(err).What, configPath))
	return o.Describe(cfg), nil
}

var roleColumns = []table.Column{{Title: "ROLE"}, {Title: "ARN"}, {Title: "ALLOWED", Rank: 1}, {Title: "REGION", Rank: 2}, {Title: "SESSION", Rank: 3}}

func roleRows(roles []control.Role) [][]table.Cell {
	var rows [][]table.Cell
	for _, r := range roles {
		rows = append(rows, []table.Cell{
			{Text: r.Name, Style: table.Bold}, {Text: r.ARN}, {Text: strings.Join(r.Allow, "; ")}, {Text: r.Region}, {Text: r.Session},
		})
	}
	return rows
}

// outcome is how trying one role ended.
type outcome struct {
	OK      bool       `json:"ok"`
	Session string     `json:"session,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	Code    fault.Code `json:"code,omitempty"`
	Error   string     `json:"error,omitempty"`
	Hint    string     `json:"hint,omitempty"`
	// Finding is what the doctor would say of a container with this role.
	Finding any `json:"finding,omitempty"`
	advice  string
}

// roleJSON is a role in the answer for programs.
type roleJSON struct {
	control.Role
	Check *outcome `json:"check,omitempty"`
}

func rolesAnswer(roles []control.Role, outcomes []*outcome) any {
	answer := struct {
		Roles []roleJSON `json:"roles"`
	}{Roles: []roleJSON{}}
	for i, r := range roles {
		role := roleJSON{Role: r}
		if outcomes != nil {
			role.Check = outcomes[i]
		}
		answer.Roles = append(answer.Roles, role)
	}
	return answer
}

// checkRoles tries the roles, and shows each as soon as it and those before it are known.
func checkRoles(ctx context.Context, o Options, configPath string, roles []control.Role, asJSON bool) error {
	outcomes := make([]*outcome, len(roles))
	known := make([]chan struct{}, len(roles))
	slots := make(chan struct{}, checksAtOnce)
	var all sync.WaitGroup
	defer all.Wait()
	for i, r := range roles {
		known[i] = make(chan struct{})
		all.Go(func() {
			defer close(known[i])
			slots <- struct{}{}
			defer func() { <-slots }()
			outcomes[i] = checkRole(ctx, o, configPath, r)
		})
	}
	width := 0
	for _, r := range roles {
		width = max(width, len(r.Name))
	}
	failed := 0
	var first *outcome
	for i, r := range roles {
		<-known[i]
		if !outcomes[i].OK {
			failed++
			if first == nil {
				first = outcomes[i]
			}
		}
		if !asJSON {
			if err := printText(o.Stdout, outcomes[i].line(r, width, window(o.Stdout).Colour)); err != nil {
				return err
			}
		}
	}
	if asJSON {
		if err := printJSON(o.Stdout, rolesAnswer(roles, outcomes)); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fault.New(first.Code, fmt.Sprintf("%d of %d roles cannot be assumed", failed, len(roles)),
			"each has its own way out above; after the change, run the check again")
	}
	return nil
}

func checkRole(ctx context.Context, o Options, configPath string, r control.Role) *outcome {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	c, err := control.Check(ctx, socketOf(configPath), r.Name)
	if err != nil {
		f := fault.As(err)
		x := &outcome{Code: f.Code, Error: f.What, Hint: f.Hint}
		if f.Code == fault.STSDenied {
			x.Finding, x.advice = o.Refused(configPath, r, f.What)
		}
		return x
	}
	return &outcome{OK: true, Session: c.Session, Expires: &c.Expires}
}

// line is what a person reads of one outcome.
func (c *outcome) line(r control.Role, width int, colour bool) string {
	word, style := "ok", table.Green
	if !c.OK {
		word, style = "FAILED", table.Red
	}
	s := fmt.Sprintf("%s  %-*s  %s\n", table.Paint(fmt.Sprintf("%-6s", word), style, colour), width, r.Name, r.ARN)
	if !c.OK {
		s += fmt.Sprintf("        error: %s [%s]\n", table.Harmless(c.Error), c.Code)
	}
	switch {
	case c.Finding != nil:
		s += c.advice
	case c.Hint != "":
		s += fmt.Sprintf("        hint: %s\n", table.Harmless(c.Hint))
	}
	return s
}
