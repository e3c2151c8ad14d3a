package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"taskrole/internal/address"
	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/daemon"
	"taskrole/internal/fault"
	"taskrole/internal/table"
	"taskrole/internal/terminal"
)

// watchPause is between two looks of ps --watch.
const watchPause = 2 * time.Second

func newPs(o Options) *cobra.Command {
	var configPath string
	var asJSON, watch bool
	c := &cobra.Command{
		Use:   "ps",
		Short: "Show the containers that have a role, and those that were refused one",
		Long: `Shows what the agent serves: each container with its role, how much is left of its
credentials, who took them last, and whether something in its network namespace is broken;
then the containers that were refused lately. A narrow window shows fewer columns; a pipe
gets all of them, separated by tabs.`,
		Example: `  taskrole ps
  taskrole ps --watch
  taskrole ps --json | jq -r '.containers[] | select(.taken == null) | .name'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v := view{o: o, socket: socketOf(configPath), json: asJSON}
			if watch {
				return v.watch(c.Context())
			}
			text, err := v.text(c.Context())
			if err != nil {
				return err
			}
			return printText(o.Stdout, text)
		},
	}
	configFlag(c, &configPath)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "look again every two seconds, until Ctrl-C")
	return c
}

// view is one ps.
type view struct {
	o      Options
	socket string
	json   bool
}

// text asks the agent and says what there is to show.
func (v view) text(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	list, err := control.List(ctx, v.socket)
	if err != nil {
		return "", err
	}
	if v.json {
		if list.Containers == nil {
			list.Containers = []control.Attached{}
		}
		if list.Refusals == nil {
			list.Refusals = []control.Refusal{}
		}
		var b strings.Builder
		err := printJSON(&b, list)
		return b.String(), err
	}
	return psText(list, time.Now(), window(v.o.Stdout), terminal.UTF8(os.Getenv)), nil
}

// watch shows it again and again. An agent that goes away is waited for once it was there.
func (v view) watch(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	tick := time.NewTicker(watchPause)
	defer tick.Stop()
	for first := true; ; first = false {
		text, err := v.text(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		case err != nil && v.json:
			daemon.Show(v.o.Stderr, fault.As(err))
			text = ""
		case err != nil:
			text = fault.As(err).What + "\n"
		}
		if err := printText(v.o.Stdout, frame(text, v.o.Stdout, first)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// frame makes text replace what was shown before: on a terminal in its place, in a pipe below it.
func frame(text string, w io.Writer, first bool) string {
	const home, clearLine, clearBelow = "\x1b[H", "\x1b[K", "\x1b[J"
	if terminal.Is(w) {
		return home + strings.ReplaceAll(head(text, terminal.Height(w)-1), "\n", clearLine+"\n") + clearBelow
	}
	if first {
		return text
	}
	return "\n" + text
}

// head is as much of text as fits into so many lines, and says how much is missing. Otherwise the window would roll.
func head(text string, most int) string {
	lines := strings.SplitAfter(text, "\n")
	if most < 2 || len(lines)-1 <= most { //nolint:mnd // a line, and how many more
		return text
	}
	return strings.Join(lines[:most-1], "") + fmt.Sprintf("… and %d lines more\n", len(lines)-most)
}

var psColumns = []table.Column{
	{Title: "CONTAINER"},
	{Title: "ROLE"},
	{Title: "STATE"},
	{Title: "LEFT", Rank: 1},
	{Title: "LAST TAKEN", Rank: 2},
	{Title: "CLIENT", Rank: 3},
	{Title: "IMAGE", Rank: 4},
	{Title: "NETWORK", Rank: 5},
	{Title: "WAY", Rank: 6},
	{Title: "ENDPOINTS", Rank: 8},
	{Title: "SESSION", Rank: 7},
}

var refusedColumns = []table.Column{{Title: "REFUSED"}, {Title: "ROLE"}, {Title: "CODE"}, {Title: "WHEN", Rank: 1}, {Title: "TIMES", Rank: 3}, {Title: "WAY", Rank: 2}, {Title: "WHY"}}

// psText is the answer for people.
func psText(list control.ListReply, now time.Time, o table.Options, blocks bool) string {
	slices.SortFunc(list.Containers, func(x, y control.Attached) int {
		return cmp.Or(cmp.Compare(titleOf(x.Name, x.ID), titleOf(y.Name, y.ID)), cmp.Compare(x.ID, y.ID))
	})
	var rows [][]table.Cell
	for _, c := range list.Containers {
		rows = append(rows, psRow(c, now, o, blocks))
	}
	text := table.Format(psColumns, rows, o)
	if o.Width > 0 && len(rows) == 0 {
		text = "no container has a role\n"
	}
	if o.Width > 0 {
		for _, c := range list.Containers {
			text += remarks(c, o.Colour)
		}
	}
	if len(list.Refusals) == 0 {
		return text
	}
	rows = nil
	for _, r := range list.Refusals {
		rows = append(rows, refusedRow(r, now, o))
	}
	return text + "\n" + table.Format(refusedColumns, rows, o)
}

func psRow(c control.Attached, now time.Time, o table.Options, blocks bool) []table.Cell {
	state, style := stateOf(c, now)
	left := c.Expires.Sub(now)
	life := table.Cell{Text: "-"}
	switch {
	case c.Expires.IsZero() || left <= 0:
	case o.Width > 0:
		part := float64(left) / float64(c.Expires.Sub(c.Fetched))
		life = table.Cell{Text: table.Bar(part, barWidth, blocks) + " " + short(left), Style: lifeStyle(left)}
	default:
		life.Text = short(left)
	}
	taken := "never"
	if !c.Taken.IsZero() {
		taken = short(now.Sub(c.Taken)) + " ago"
	}
	client := c.Client
	if o.Width > 0 {
		client, _, _ = strings.Cut(client, " ") // the first word names the SDK
	}
	return []table.Cell{
		{Text: titleOf(c.Name, c.ID), Style: table.Bold},
		{Text: c.Role},
		{Text: state, Style: style},
		life,
		{Text: taken},
		{Text: client},
		{Text: c.Image},
		{Text: networkOf(c)},
		{Text: string(c.Way)},
		{Text: endpointsOf(c.Endpoints)},
		{Text: c.Session},
	}
}

// barWidth is how many characters the bar of a life has.
const barWidth = 8

// The states of a container, which are words for scripts too.
func stateOf(c control.Attached, now time.Time) (string, table.Style) {
	switch {
	case c.Missing != "":
		return "broken", table.Red
	case c.Expires.IsZero() || !now.Before(c.Expires):
		return "expired", table.Red
	case c.Trouble != nil:
		return "stale", table.Amber // served, and not renewed
	default:
		return "ok", table.Green
	}
}

// remarks are what a person should know of a container that is not well.
func remarks(c control.Attached, colour bool) string {
	name := table.Harmless(titleOf(c.Name, c.ID))
	text := ""
	if c.Missing != "" {
		text += table.Paint(fmt.Sprintf("%s: broken: %s; start it again", name, table.Harmless(c.Missing)), table.Red, colour) + "\n"
	}
	if c.Trouble != nil {
		text += table.Paint(fmt.Sprintf("%s: %s [%s]", name, table.Harmless(c.Trouble.What), c.Trouble.Code), table.Amber, colour) + "\n"
		if c.Trouble.Hint != "" {
			text += fmt.Sprintf("%s: hint: %s\n", name, table.Harmless(c.Trouble.Hint))
		}
	}
	return text
}

func refusedRow(r control.Refusal, now time.Time, o table.Options) []table.Cell {
	why := r.What
	if o.Width == 0 && r.Hint != "" {
		why += ": " + r.Hint
	}
	return []table.Cell{
		{Text: titleOf(r.Name, r.ID), Style: table.Bold},
		{Text: r.Role},
		{Text: string(r.Code), Style: table.Red},
		{Text: short(now.Sub(r.Time)) + " ago"},
		{Text: fmt.Sprint(r.Count)},
		{Text: string(r.Way)},
		{Text: why},
	}
}

func titleOf(name string, id container.ID) string {
	if name != "" {
		return name
	}
	return id.Short()
}

// networkOf is the engine's word for the network, or what the agent knows itself.
func networkOf(c control.Attached) string {
	name, _, joined := strings.Cut(c.Network, ":") // container:ID
	switch {
	case c.Host:
		return "host"
	case joined && name == "container":
		return "shared"
	case c.Shared && name != "":
		return name + ", shared"
	case c.Shared:
		return "shared"
	case name == "":
		return "own"
	}
	return c.Network
}

// endpointsOf names what answers in a container.
func endpointsOf(addresses []string) string {
	var words []string
	add := func(word string, where ...netip.AddrPort) {
		for _, a := range where {
			for _, have := range addresses {
				if have == a.String() {
					words = append(words, word)
					return
				}
			}
		}
	}
	add("ecs", address.ECS)
	add("pod-identity", address.PodIdentity, address.PodIdentity6)
	add("imds", address.IMDS, address.IMDS6)
	add("full-uri", address.FullURI)
	add("proxy", address.Proxy)
	return strings.Join(words, ",")
}

// lifeStyle is red when what is left is less than most SDKs want, and amber when a renewal should have come long ago.
func lifeStyle(left time.Duration) table.Style {
	switch {
	case left < 5*time.Minute: //nolint:mnd // SDKs refresh 5 minutes before the end
		return table.Red
	case left < 15*time.Minute: //nolint:mnd // AWS's shortest session
		return table.Amber
	default:
		return table.Green
	}
}

// short is a duration in its largest unit, and in two where that says more.
func short(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < day:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60) //nolint:mnd // minutes of an hour
	default:
		return fmt.Sprintf("%dd", int(d/day))
	}
}
