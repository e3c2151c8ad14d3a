package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"taskrole/doc"
	"taskrole/internal/manual"
)

// exitStatus is what taskrole(1) says beside the help of the commands.
const exitStatus = "## Exit status\n\n" +
	"0: ok. 1: a fault, or with some commands a finding. 2: wrong words, or a configuration that cannot be used.\n\n" +
	"`run` and `exec` become another command and end with its exit status. If that did not begin: 125 for any fault, 126\n" +
	"if it cannot be run, 127 if there is none.\n\n"

const files = "## Files\n\n" +
	"`/etc/taskrole/config.yaml` the configuration, taskrole.yaml(5)\n\n" +
	"`/run/taskrole/agent.sock` where the agent listens for the hook and the commands, root only\n\n" +
	"`/etc/cdi/taskrole.json` the roles as devices, written by the agent for engines\n\n" +
	"`/var/lib/taskrole/setup` what was there before setup\n\n"

// pages are the manual.
func pages(root *cobra.Command) []manual.Page {
	return []manual.Page{
		{Name: "taskrole", Section: 1, Short: root.Short, Markdown: commandsPage(root)},
		{Name: "taskrole-agent", Section: 8, Short: "serve roles to the containers of this host", Markdown: agentPage(root)},
		{Name: "taskrole.yaml", Section: 5, Short: "the configuration of taskrole's agent", Markdown: configPage()},
	}
}

// commandsPage is made of the help of every command that people call.
func commandsPage(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("## Synopsis\n\n**taskrole** COMMAND [ARGUMENT…]\n\n## Description\n\n" + root.Long + "\n\n")
	b.WriteString(code(root.Example) + "## Commands\n\n")
	walk(root, func(c *cobra.Command) {
		if c == root || !c.Runnable() || c.HasSubCommands() {
			return
		}
		b.WriteString("### " + c.UseLine() + "\n\n" + describe(c))
	})
	b.WriteString(exitStatus + files + "## See also\n\ntaskrole-agent(8), taskrole.yaml(5)\n")
	return b.String()
}

func agentPage(root *cobra.Command) string {
	agent, _, err := root.Find([]string{"agent"})
	if err != nil {
		return "" // it is ours
	}
	return "## Synopsis\n\n**" + agent.UseLine() + "**\n\n## Description\n\n" + describe(agent) +
		"## Systemd\n\nsetup installs the unit `taskrole.service`. The agent tells systemd when it is ready, reloading and\n" +
		"stopping, and serves the watchdog: an agent that no longer answers itself is restarted. While none runs, requests of\n" +
		"containers are refused; a new agent takes the containers up again.\n\n" +
		"## Signals\n\nSIGHUP reads the configuration again (`systemctl reload taskrole`); one with problems is reported and not\n" +
		"used. SIGTERM and SIGINT end the agent.\n\n" + exitStatus + files + "## See also\n\ntaskrole(1), taskrole.yaml(5)\n"
}

// configPage is doc/config.md without its title.
func configPage() string {
	_, text, _ := strings.Cut(doc.Config, "\n")
	return "## Description\n" + text + "\n## See also\n\ntaskrole(1), taskrole-agent(8)\n"
}

// walk visits a command and what is below it, without those that are not for people.
func walk(c *cobra.Command, visit func(*cobra.Command)) {
	if c.Hidden {
		return
	}
	visit(c)
	for _, sub := range c.Commands() {
		walk(sub, visit)
	}
}

// describe is a command's help as Markdown.
func describe(c *cobra.Command) string {
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	text += "\n\n" + code(c.Example)
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		name, usage := pflag.UnquoteUsage(f)
		words := "**--" + f.Name + "**"
		if f.Shorthand != "" {
			words = "**-" + f.Shorthand + "**, " + words
		}
		if name != "" {
			words += " *" + name + "*"
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		text += words + "\n: " + strings.ReplaceAll(usage, "\n", " ") + "\n\n"
	})
	return text
}

func code(example string) string { return "```\n" + example + "\n```\n\n" }
