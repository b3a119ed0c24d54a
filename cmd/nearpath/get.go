package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// The nouns of get, as the agent sends them.

// A podView is a pod of this node.
type podView struct {
	Namespace   string   `json:"namespace"`
	Name        string   `json:"name"`
	Addresses   []string `json:"addresses"` // IPv4 first
	ENI         string   `json:"eni"`
	ContainerID string   `json:"containerID"`
	Datapath    string   `json:"datapath"`
	Path        string   `json:"path"` // where its Services are translated: sockets or packets
	// Ingress and Egress are the pod's limits in bits per second, 0 for none.
	Ingress uint64 `json:"ingress,omitempty"`
	Egress  uint64 `json:"egress,omitempty"`
}

// An eniView is an ENI of the pool.
type eniView struct {
	ID        string   `json:"id"`
	MAC       string   `json:"mac"`
	VSwitch   string   `json:"vSwitch"`
	State     string   `json:"state"`
	Exclusive bool     `json:"exclusive,omitempty"`
	Slot      int      `json:"slot"`
	Queues    int      `json:"queues,omitempty"`
	Pods      int      `json:"pods"`
	Addresses []string `json:"addresses"`
}

// A poolView is the address pool: how many pods fit and what is ready for them.
type poolView struct {
	Capacity   capacityView      `json:"capacity"`
	Shared     addressesView     `json:"shared"`
	Exclusive  addressesView     `json:"exclusive"`
	Unproven   int               `json:"unproven"`
	Quarantine int               `json:"quarantine"`
	ENIs       int               `json:"enis"`
	VSwitches  []vSwitchView     `json:"vSwitches"`
	Kept       []keptAddressView `json:"kept"`
}

// A capacityView is how many pods fit if all are of one kind.
type capacityView struct {
	Shared    int `json:"shared"`
	Exclusive int `json:"exclusive"`
}

// An addressesView counts addresses of shared ENIs, or exclusive ENIs.
type addressesView struct {
	Used    int `json:"used"`
	Kept    int `json:"kept"`
	Idle    int `json:"idle"`
	Cooling int `json:"cooling"`
	Pending int `json:"pending"`
	Waiting int `json:"waiting"`
}

// A vSwitchView is where addresses come from.
type vSwitchView struct {
	ID      string    `json:"id"`
	Zone    string    `json:"zone"`
	Free    int       `json:"free"`
	ENIs    int       `json:"enis"`
	Breaker string    `json:"breaker"`
	Until   time.Time `json:"until,omitzero"`
	Error   string    `json:"error,omitempty"`
}

// A keptAddressView is an address that waits for a pod of its name.
type keptAddressView struct {
	Pod     string    `json:"pod"`
	Address string    `json:"address"`
	Until   time.Time `json:"until"`
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
	"pods": {"/v1/pods", "pods of this node with their addresses and ENIs", table("NAMESPACE\tNAME\tADDRESSES\tDATAPATH\tPATH\tENI",
		func(p podView) []any {
			return []any{p.Namespace, p.Name, strings.Join(p.Addresses, " "), p.Datapath, p.Path, p.ENI}
		})},
	"enis": {"/v1/enis", "ENIs of the address pool", table("ENI\tMAC\tVSWITCH\tSTATE\tSLOT\tPODS\tADDRESSES",
		func(e eniView) []any {
			return []any{e.ID, e.MAC, e.VSwitch, e.State, e.Slot, e.Pods, strings.Join(e.Addresses, " ")}
		})},
	"policies": {policiesPath, "policies, which pods of this node they select, and what the kernel enforces", printPolicies},
	"pool":     {"/v1/pool", "how many pods fit on this node and what is ready for them", printPool},
	"ready":    {"/v1/ready", "what the agent still waits for", printReady},
}

func printPool(out io.Writer, body json.RawMessage) error {
	var p poolView
	if err := json.Unmarshal(body, &p); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KIND\tCAPACITY\tUSED\tKEPT\tIDLE\tCOOLING\tPENDING\tWAITING")
	for _, kind := range []struct {
		name     string
		capacity int
		addressesView
	}{{"shared", p.Capacity.Shared, p.Shared}, {"exclusive", p.Capacity.Exclusive, p.Exclusive}} {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n",
			kind.name, kind.capacity, kind.Used, kind.Kept, kind.Idle, kind.Cooling, kind.Pending, kind.Waiting)
	}
	fmt.Fprintln(w, "\nVSWITCH\tZONE\tFREE\tENIS\tBREAKER\tERROR")
	for _, v := range p.VSwitches {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", v.ID, v.Zone, v.Free, v.ENIs, v.Breaker, cmp.Or(v.Error, "-"))
	}
	if p.Unproven+p.Quarantine > 0 {
		fmt.Fprintf(w, "\n%d addresses not known to be unused, %d not confirmed by the cloud\n", p.Unproven, p.Quarantine)
	}
	return w.Flush()
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
	cmd := &cobra.Command{Use: "get", Short: "Show what the agent of this node has, and what the kernel has of Services and names"}
	var o outputOptions
	o.addTo(cmd)
	for name, n := range nouns {
		cmd.AddCommand(&cobra.Command{
			Use: name, Short: "Show " + n.short,
			RunE: func(cmd *cobra.Command, _ []string) error {
				var body json.RawMessage
				if err := agentapi.NewClient(o.socket).Get(cmd.Context(), n.path, &body); err != nil {
					return err
				}
				return o.print(cmd.OutOrStdout(), body, n.print)
			},
		})
	}
	for _, n := range mapNouns {
		cmd.AddCommand(newMapNoun(n, &o))
	}
	cmd.AddCommand(newGetDNS(&o))
	return cmd
}

// outputOptions are what commands that show something have in common.
type outputOptions struct{ socket, output string }

func (o *outputOptions) addTo(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&o.socket, "socket", agentapi.DefaultSocket, "the agent's socket")
	flags.StringVarP(&o.output, "output", "o", "table", "table, json or yaml")
}

// print shows JSON as it is, as YAML, or by table.
func (o *outputOptions) print(w io.Writer, body json.RawMessage, table func(io.Writer, json.RawMessage) error) error {
	switch o.output {
	case "json":
		_, err := fmt.Fprintf(w, "%s\n", body)
		return err
	case "yaml":
		text, err := yaml.JSONToYAML(body)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	case "table":
		return table(w, body)
	}
	return usageError{fmt.Errorf("--output %q: use table, json or yaml", o.output)}
}

// table prints a JSON list of T under a header, one row each.
func table[T any](header string, row func(T) []any) func(io.Writer, json.RawMessage) error {
	return func(out io.Writer, body json.RawMessage) error {
		var items []T
		if err := json.Unmarshal(body, &items); err != nil {
			return err
		}
		return printRows(out, header, items, row)
	}
}

func printRows[T any](out io.Writer, header string, items []T, row func(T) []any) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, header)
	for _, item := range items {
		for i, c := range row(item) {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, c)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}
