package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/service/model"
	"github.com/spf13/cobra"
)

const connectionPath = "/v1/explain/service"

func newExplain() *cobra.Command {
	cmd := &cobra.Command{Use: "explain", Short: "Say what becomes of a connection or of a lookup, and why"}
	cmd.AddCommand(newExplainService(), newExplainDNS(), newExplainPolicy())
	return cmd
}

func newExplainService() *cobra.Command {
	var (
		o          outputOptions
		pins, from string
	)
	cmd := &cobra.Command{
		Use:   "service ADDR:PORT[/PROTOCOL]",
		Short: "Say which rule decides on a connection to a Service, and which backends it may get",
		Long: `Say which rule of kube-proxy's behaviour decides on a connection to a Service, and which backends it may get: from the
kernel's maps, with or without an agent. An agent that answers adds what the objects of the cluster say, by the rules
alone, and the difference if there is one.`,
		Args: oneArgument("address and port, as 10.96.0.10:53/UDP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := bpf.Read(pins)
			if err != nil {
				return err
			}
			e := explainer{tables: t, agent: agentapi.NewClient(o.socket)}
			view, err := e.explain(cmd.Context(), args[0], from)
			if err != nil {
				return err
			}
			body, err := json.Marshal(view)
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), body, printExplained)
		},
	}
	o.addTo(cmd)
	cmd.Flags().StringVar(&pins, "pins", defaultPinDir, "the directory of the maps' pins")
	cmd.Flags().StringVar(&from, "from", "node", "who connects: a pod's NAMESPACE/NAME, an address, node, or outside")
	return cmd
}

// A connectionView is what becomes of a connection.
type connectionView struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Protocol string `json:"protocol"`
	// Maps is what the kernel does. Objects is what the cluster's objects say, nil without an agent.
	Maps    verdictView  `json:"maps"`
	Objects *verdictView `json:"objects,omitempty"`
	// Difference says in which way the two differ.
	Difference string `json:"difference,omitempty"`
}

// A verdictView is one way to see it.
type verdictView struct {
	Outcome  string        `json:"outcome"`            // pass, forward, reject or drop
	Frontend string        `json:"frontend,omitempty"` // kind and address of the entry that answers
	Record   uint32        `json:"record,omitempty"`
	Service  string        `json:"service,omitempty"`
	Rows     []rowView     `json:"rows"` // that decided
	List     string        `json:"list,omitempty"`
	Backends []servingView `json:"backends,omitempty"`
}

type rowView struct {
	Row  string `json:"row"`
	Says string `json:"says"`
}

// A servingView is a backend that the connection may get.
type servingView struct {
	Backend string `json:"backend"`
	Local   bool   `json:"local,omitempty"`
	Sees    string `json:"sees"` // client or node
}

// An explainer explains by what it has read of the kernel, and asks the agent for the rest.
type explainer struct {
	tables *bpf.Tables
	agent  *agentapi.Client
}

// A question is who connects to what.
type question struct {
	bpf.Question
	from    string // for people
	packets bool   // its sockets' calls are left alone
}

func (e *explainer) explain(ctx context.Context, to, from string) (connectionView, error) {
	q := question{}
	if err := q.parse(to); err != nil {
		return connectionView{}, err
	}
	if err := e.identify(ctx, &q, from); err != nil {
		return connectionView{}, err
	}
	names := recordNames{}
	if err := e.ask(ctx, func(ctx context.Context) error { return e.agent.Get(ctx, recordsPath, &names) }); err != nil {
		return connectionView{}, err
	}
	view := connectionView{From: q.from, To: q.To.String(), Protocol: protocolName(q.Protocol), Maps: explainMaps(e.tables, q, names)}
	var objects verdictView
	err := e.ask(ctx, func(ctx context.Context) error {
		err := e.agent.Post(ctx, connectionPath, requestOf(q), &objects)
		if err == nil {
			view.Objects = &objects
			view.Difference = difference(view.Maps, objects)
		}
		return err
	})
	return view, err
}

// ask asks the agent; that there is none is no error.
func (e *explainer) ask(ctx context.Context, do func(context.Context) error) error {
	if err := do(ctx); err != nil && !errors.Is(err, agentapi.ErrUnavailable) {
		return err
	}
	return nil
}

// parse reads ADDR:PORT[/PROTOCOL].
func (q *question) parse(text string) (err error) {
	at, protocol, _ := strings.Cut(text, "/")
	if q.To, err = netip.ParseAddrPort(at); err != nil {
		return usageError{fmt.Errorf("%q: want an address and a port, as 10.96.0.10:53 or [fd00::a]:53: %w", text, err)}
	}
	switch strings.ToUpper(protocol) {
	case "", "TCP":
		q.Protocol = uint8(cluster.TCP)
	case "UDP":
		q.Protocol = uint8(cluster.UDP)
	case "SCTP":
		q.Protocol = uint8(cluster.SCTP)
	default:
		return usageError{fmt.Errorf("%q: want the protocol TCP, UDP or SCTP", text)}
	}
	q.packets = q.Protocol == uint8(cluster.SCTP)
	return nil
}

// identify finds out who connects.
func (e *explainer) identify(ctx context.Context, q *question, from string) error {
	v6 := q.To.Addr().Is6()
	switch from {
	case "node":
		e.fromNode(q)
		return nil
	case "outside": // somebody that no range of addresses has
		q.from, q.packets = "outside", true
		return nil
	}
	if addr, err := netip.ParseAddr(from); err == nil {
		if addr.Is6() != v6 {
			return usageError{fmt.Errorf("%s cannot connect to %s: they are of different families", addr, q.To)}
		}
		return e.fromAddress(q, addr, "")
	}
	addrs, err := e.podAddresses(ctx, from)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Is6() == v6 {
			return e.fromAddress(q, a, from)
		}
	}
	return usageError{fmt.Errorf("pod %s has no address of the family of %s", from, q.To)}
}

func (e *explainer) fromNode(q *question) {
	q.Inside, q.Host, q.from = true, true, "node"
	for _, a := range e.tables.Host {
		if a.Is6() == q.To.Addr().Is6() {
			q.Client, q.from = a, "node "+a.String()
		}
	}
}

// fromAddress knows whose address it is from the maps.
func (e *explainer) fromAddress(q *question, addr netip.Addr, name string) error {
	q.Client = addr
	for _, p := range e.tables.Pods {
		if slices.Contains(p.Addrs, addr) {
			q.Inside, q.packets, q.from = true, q.packets || p.ByPackets, strings.Join(strings.Fields("pod "+name+" "+addr.String()), " ")
			return nil
		}
	}
	if isOfNode(e.tables, addr) {
		q.Inside, q.Host, q.from = true, true, "node "+addr.String()
		return nil
	}
	if name != "" {
		return fmt.Errorf("pod %s has the address %s, which the kernel's maps know of no pod of this node", name, addr)
	}
	q.from, q.packets = "outside "+addr.String(), true
	return nil
}

// podAddresses asks the agent, who alone knows pods by name. Without a namespace the name must be one pod's only.
func (e *explainer) podAddresses(ctx context.Context, name string) ([]netip.Addr, error) {
	var pods []podView
	if err := e.agent.Get(ctx, nouns["pods"].path, &pods); err != nil {
		return nil, fmt.Errorf("look for pod %s: %w; without the agent, give an address", name, err)
	}
	var found []podView
	for _, p := range pods {
		if p.Name == name || p.Namespace+"/"+p.Name == name {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		return nil, usageError{fmt.Errorf("--from %s: %d pods of this node have that name: give NAMESPACE/NAME, an address, node or outside", name, len(found))}
	}
	var addrs []netip.Addr
	for _, text := range found[0].Addresses {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// explainMaps is what the programs do by their maps.
func explainMaps(t *bpf.Tables, q question, names recordNames) verdictView {
	v := t.Decide(q.Question)
	view := verdictView{Outcome: v.Decision.String(), Rows: []rowView{}}
	for _, row := range rowsOf(t, q, v) {
		view.Rows = append(view.Rows, rowView{row, model.Says(row)})
	}
	if v.Target == (bpf.Target{}) {
		return view
	}
	view.Frontend = fmt.Sprintf("%s %s/%s", v.Target.Kind, v.Frontend.Addr, protocolName(q.Protocol))
	if v.Target.Kind == bpf.ServiceAddress {
		view.Frontend = fmt.Sprintf("%s %s", v.Target.Kind, v.Frontend.Addr.Addr())
		return view
	}
	view.Record, view.Service = v.Target.Record, names[v.Target.Record]
	if v.Decision != bpf.Forward {
		return view
	}
	view.List = "cluster"
	if v.Local {
		view.List = "local"
	}
	for _, addr := range v.Backends {
		sees := model.AsClient
		if t.Sees(q.Question, v, addr.Addr()) || addr.Addr() == q.Client && q.packets && !q.Host {
			sees = model.AsNode
		}
		view.Backends = append(view.Backends, servingView{addr.String(), isOfNode(t, addr.Addr()), sees.String()})
	}
	return view
}

// rowsOf are the rows that a verdict of the maps shows at work.
func rowsOf(t *bpf.Tables, q question, v bpf.Verdict) (rows []string) {
	if v.Target == (bpf.Target{}) {
		switch {
		case v.Decision == bpf.Drop:
			return []string{"A11"}
		case q.To.Addr().IsLoopback():
			return []string{"B4"}
		default:
			return []string{"B6"}
		}
	}
	if v.Target.Kind == bpf.ServiceAddress {
		return []string{"A11"}
	}
	b := t.Blocks[v.Target.Record]
	rows = append(rows, rowOfKind(v, q))
	if v.NotInRanges {
		return append(rows, "E8")
	}
	external := v.Target.Kind != bpf.ClusterIP
	switch {
	case v.Target.Kind == bpf.HostPort: // which has no policy
	case !external && b.InternalLocal:
		rows = append(rows, "E3")
	case external && b.ExternalLocal && q.Inside:
		rows = append(rows, "E4")
	case external && b.ExternalLocal:
		rows = append(rows, "E2")
	case external && !q.Inside:
		rows = append(rows, "E1")
	}
	return append(rows, rowsOfOutcome(q, v)...)
}

func rowOfKind(v bpf.Verdict, q question) string {
	switch v.Target.Kind {
	case bpf.ClusterIP:
		return "B1"
	case bpf.ExternalIP:
		return "B2"
	case bpf.LoadBalancer:
		return "B5"
	case bpf.HostPort:
		return "B7"
	}
	if q.To.Addr().IsLoopback() {
		return "B4"
	}
	return "B3"
}

func rowsOfOutcome(q question, v bpf.Verdict) (rows []string) {
	switch {
	case v.Decision == bpf.Reject:
		rows = append(rows, "D1")
		if !q.Inside {
			rows = append(rows, "D4")
		}
	case v.Decision == bpf.Drop && v.Target.Kind == bpf.ClusterIP:
		rows = append(rows, "D2")
	case v.Decision == bpf.Drop:
		rows = append(rows, "D3")
	}
	if v.Remembered {
		rows = append(rows, "F1")
	}
	if slices.ContainsFunc(v.Backends, func(a netip.AddrPort) bool { return a.Addr() == q.Client }) && !q.Host {
		rows = append(rows, "E6")
	}
	return rows
}

// difference says how the kernel's way differs from the objects'. A client that is remembered has one of the objects'
// backends.
func difference(maps, objects verdictView) string {
	if maps.Outcome != objects.Outcome {
		return fmt.Sprintf("the kernel's verdict is %s, the objects' %s", maps.Outcome, objects.Outcome)
	}
	remembered := slices.ContainsFunc(maps.Rows, func(r rowView) bool { return r.Row == "F1" })
	var missing, extra []string
	for _, b := range objects.Backends {
		if !remembered && !slices.ContainsFunc(maps.Backends, func(o servingView) bool { return o.Backend == b.Backend && o.Sees == b.Sees }) {
			missing = append(missing, b.text())
		}
	}
	for _, b := range maps.Backends {
		if !slices.ContainsFunc(objects.Backends, func(o servingView) bool { return o.Backend == b.Backend && o.Sees == b.Sees }) {
			extra = append(extra, b.text())
		}
	}
	var parts []string
	if len(missing) > 0 {
		parts = append(parts, "the kernel lacks "+strings.Join(missing, ", "))
	}
	if len(extra) > 0 {
		parts = append(parts, "the objects have no "+strings.Join(extra, ", "))
	}
	return strings.Join(parts, "; ")
}

func (b servingView) text() string {
	text := b.Backend + " (sees the " + b.Sees
	if b.Local {
		text += ", on this node"
	}
	return text + ")"
}

func printExplained(w io.Writer, body json.RawMessage) error {
	var v connectionView
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s -> %s/%s: %s\n", v.From, v.To, v.Protocol, v.Maps.Outcome)
	if v.Maps.Frontend != "" {
		fmt.Fprintf(w, "  answered by %s", v.Maps.Frontend)
		if !strings.HasPrefix(v.Maps.Frontend, bpf.ServiceAddress.String()+" ") {
			fmt.Fprintf(w, ": %s", recordNames{v.Maps.Record: v.Maps.Service}.in(v.Maps.Record))
		}
		fmt.Fprintln(w)
	}
	for _, r := range v.Maps.Rows {
		fmt.Fprintf(w, "  %-4s %s\n", r.Row, r.Says)
	}
	if v.Maps.List != "" {
		fmt.Fprintf(w, "  one of the %s list:\n", v.Maps.List)
	}
	for _, b := range v.Maps.Backends {
		fmt.Fprintf(w, "       %s\n", b.text())
	}
	if v.Objects == nil {
		fmt.Fprintln(w, "no agent answers: this is the kernel's view alone")
		return nil
	}
	rows := make([]string, len(v.Objects.Rows))
	for i, r := range v.Objects.Rows {
		rows[i] = r.Row
	}
	fmt.Fprintf(w, "the cluster's objects say: %s (%s; rows %s)\n", v.Objects.Outcome, v.Objects.Service, strings.Join(rows, " "))
	if v.Difference != "" {
		return fmt.Errorf("the kernel differs from the objects: %s", v.Difference)
	}
	return nil
}
