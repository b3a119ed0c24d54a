package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/spf13/cobra"
)

// What only the agent knows of the maps: what it calls their records. The frontends are for those who ask the agent anyway.
const (
	recordsPath   = "/v1/records"
	frontendsPath = "/v1/frontends"
)

const defaultPinDir = "/sys/fs/bpf/nearpath"

// A mapNoun is something get reads from the kernel's maps, with or without an agent.
type mapNoun struct {
	name, short string
	view        func(*bpf.Tables, recordNames) any
	print       func(io.Writer, json.RawMessage) error
}

var mapNouns = []mapNoun{
	{
		"services", "Service ports as the kernel has them, with their backends",
		func(t *bpf.Tables, names recordNames) any { return serviceViews(t, names) },
		table("SERVICE\tFRONTENDS\tINTERNAL\tEXTERNAL\tAFFINITY\tRANGES\tCLUSTER\tLOCAL", func(s serviceView) []any {
			return []any{
				recordNames{s.Record: s.Service}.in(s.Record), dash(strings.Join(s.Frontends, ", ")), s.InternalPolicy, s.ExternalPolicy,
				affinityText(s), dash(strings.Join(s.SourceRanges, " ")), countText(s.Cluster, s.Draining, s.NodeDNS), len(s.Local),
			}
		}),
	},
	{
		"frontends", "where Service ports are reached, and which backends the traffic policy leaves there",
		func(t *bpf.Tables, names recordNames) any { return frontendViews(t, names) },
		table("FRONTEND\tPROTOCOL\tKIND\tPOLICY\tSERVICE\tBACKENDS", func(f frontendView) []any {
			if f.Policy == "" {
				return []any{f.Frontend, "-", f.Kind, "-", "-", "(other ports refuse)"}
			}
			return []any{f.Frontend, f.Protocol, f.Kind, f.Policy, recordNames{f.Record: f.Service}.in(f.Record), backendsText(f)}
		}),
	},
	{
		"backends", "backends, and the Service ports that lead there",
		func(t *bpf.Tables, names recordNames) any { return backendViews(t, names) },
		table("BACKEND\tPROTOCOL\tNODE\tSTATE\tSERVICES", func(b backendView) []any {
			return []any{b.Backend, dash(b.Protocol), b.node(), b.state(), b.users()}
		}),
	},
}

func newMapNoun(n mapNoun, o *outputOptions) *cobra.Command {
	var pins string
	cmd := &cobra.Command{
		Use: n.name, Short: "Show " + n.short,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := bpf.Read(pins)
			if err != nil {
				return err
			}
			names, err := askNames(cmd.Context(), o.socket)
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "names of Services are left out:", err)
			}
			body, err := json.Marshal(n.view(t, names))
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), body, n.print)
		},
	}
	cmd.Flags().StringVar(&pins, "pins", defaultPinDir, "the directory of the maps' pins")
	return cmd
}

// askNames gets the names of records from the agent; without an agent nobody has them, which is no error.
func askNames(ctx context.Context, socket string) (names recordNames, err error) {
	err = agentapi.NewClient(socket).Get(ctx, recordsPath, &names)
	if errors.Is(err, agentapi.ErrUnavailable) {
		err = nil
	}
	return names, err
}

// frontendViews reads the kernel, not what the agent believes of it.
func (a *agent) frontendViews() ([]frontendView, error) {
	t, err := bpf.Read(a.cfg.PinDir)
	if err != nil {
		return nil, err
	}
	return frontendViews(t, a.recordNames()), nil
}

// recordNames is what records are called.
func (a *agent) recordNames() recordNames {
	names := recordNames{}
	for record, port := range a.services.Records() {
		names[record] = port.String()
	}
	return names
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func affinityText(s serviceView) string {
	if s.AffinitySeconds == 0 {
		return "-"
	}
	return fmt.Sprintf("%ds, %d clients", s.AffinitySeconds, s.Clients)
}

func countText(cluster, draining []string, dns bool) string {
	text := fmt.Sprint(len(cluster))
	if len(draining) > 0 {
		text += fmt.Sprintf(" (%d more draining)", len(draining))
	}
	if dns {
		text += " (node DNS first)"
	}
	return text
}

func backendsText(f frontendView) string {
	text := dash(strings.Join(f.Backends, " "))
	if f.NodeDNS {
		text = "(node DNS) " + text
	}
	return text
}

func (b backendView) node() string {
	if b.Local {
		return "this"
	}
	return "other"
}

func (b backendView) state() string {
	if b.Draining {
		return "draining"
	}
	return "serving"
}

func (b backendView) users() string {
	texts := make([]string, len(b.Users))
	for i, user := range b.Users {
		texts[i] = recordNames{user.Record: user.Service}.in(user.Record)
	}
	return strings.Join(texts, ", ")
}
