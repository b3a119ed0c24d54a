package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/spf13/cobra"
)

// The nouns of get, as the agent sends them.

// A podView is a pod of this node.
type podView struct {
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
	Address     string `json:"address"`
	ENI         string `json:"eni"`
	ContainerID string `json:"containerID"`
}

// A serviceView is a Service port in one address family, as the kernel has it.
type serviceView struct {
	Frontend string   `json:"frontend"`
	Protocol string   `json:"protocol"`
	Record   uint32   `json:"record"`
	Backends []string `json:"backends"`
	NodeDNS  bool     `json:"nodeDNS,omitempty"`
}

// An eniView is an ENI of the pool.
type eniView struct {
	ID        string   `json:"id"`
	MAC       string   `json:"mac"`
	VSwitch   string   `json:"vSwitch"`
	State     string   `json:"state"`
	Slot      int      `json:"slot"`
	Addresses []string `json:"addresses"`
}

// A readyView says what is not ready yet; empty means that the agent is.
type readyView struct {
	Waiting []string `json:"waiting"`
}

// A noun is something get can get: where it is and how it looks as a table.
type noun struct {
	path  string
	short string
	print func(w io.Writer, body json.RawMessage) error
}

var nouns = map[string]noun{
	"pods": {"/v1/pods", "pods of this node with their addresses and ENIs", table("NAMESPACE\tNAME\tADDRESS\tENI",
		func(p podView) []any { return []any{p.Namespace, p.Name, p.Address, p.ENI} })},
	"services": {"/v1/services", "Service ports as the kernel has them", table("FRONTEND\tPROTOCOL\tRECORD\tBACKENDS",
		func(s serviceView) []any { return []any{s.Frontend, s.Protocol, s.Record, backendsText(s)} })},
	"enis": {"/v1/enis", "ENIs of the address pool", table("ENI\tMAC\tVSWITCH\tSTATE\tSLOT\tADDRESSES",
		func(e eniView) []any {
			return []any{e.ID, e.MAC, e.VSwitch, e.State, e.Slot, strings.Join(e.Addresses, " ")}
		})},
	"ready": {"/v1/ready", "what the agent still waits for", printReady},
}

func backendsText(s serviceView) string {
	text := strings.Join(s.Backends, " ")
	if s.NodeDNS {
		text = "(node DNS) " + text
	}
	return text
}

func printReady(w io.Writer, body json.RawMessage) error {
	var r readyView
	if err := json.Unmarshal(body, &r); err != nil {
		return err
	}
	if len(r.Waiting) > 0 {
		return errors.New("not ready: " + strings.Join(r.Waiting, ", "))
	}
	_, err := fmt.Fprintln(w, "ready")
	return err
}

func newGet() *cobra.Command {
	cmd := &cobra.Command{Use: "get", Short: "Show what the agent of this node has"}
	var socket, output string
	cmd.PersistentFlags().StringVar(&socket, "socket", agentapi.DefaultSocket, "the agent's socket")
	cmd.PersistentFlags().StringVarP(&output, "output", "o", "table", "table or json")
	for name, n := range nouns {
		cmd.AddCommand(&cobra.Command{
			Use: name, Short: "Show " + n.short,
			RunE: func(cmd *cobra.Command, _ []string) error {
				var body json.RawMessage
				if err := agentapi.NewClient(socket).Get(cmd.Context(), n.path, &body); err != nil {
					return err
				}
				switch output {
				case "json":
					_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", body)
					return err
				case "table":
					return n.print(cmd.OutOrStdout(), body)
				}
				return usageError{fmt.Errorf("--output %q: use table or json", output)}
			},
		})
	}
	return cmd
}

// table prints a JSON list of T under a header, one row each.
func table[T any](header string, row func(T) []any) func(io.Writer, json.RawMessage) error {
	return func(out io.Writer, body json.RawMessage) error {
		var items []T
		if err := json.Unmarshal(body, &items); err != nil {
			return err
		}
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, header)
		for _, item := range items {
			cells := row(item)
			for i, c := range cells {
				if i > 0 {
					fmt.Fprint(w, "\t")
				}
				fmt.Fprint(w, c)
			}
			fmt.Fprintln(w)
		}
		return w.Flush()
	}
}
