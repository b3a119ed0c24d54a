package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/agentapi"
)

// A dnsView is what becomes of DNS questions on the node.
type dnsView struct {
	Pods []podDNSView `json:"pods"`
	// Node is what the agent's DNS server counts, nil without an agent.
	Node *nodeDNSView `json:"node,omitempty"`
	// Entries is how many answers and names the kernel holds, Scoped how many of them for some pods only.
	Entries int `json:"entries"`
	Scoped  int `json:"scoped"`
	// SilentSeconds is how long ago the agent gave its last sign of life.
	SilentSeconds float64         `json:"silentSeconds"`
	Names         []answerDNSView `json:"names"` // those given most often, first
}

// A podDNSView counts the questions of a pod.
type podDNSView struct {
	Pod      string `json:"pod,omitempty"` // namespace/name, of an agent
	Address  string `json:"address"`
	Hit      uint64 `json:"hit"`      // answered by the kernel
	Negative uint64 `json:"negative"` // answered by it that there is no such name or record
	Miss     uint64 `json:"miss"`     // not held
	Punt     uint64 `json:"punt"`     // not for the kernel to answer
	Expired  uint64 `json:"expired"`  // held for too long
}

// A nodeDNSView counts the questions that came to the agent's DNS server.
type nodeDNSView struct {
	Questions   uint64 `json:"questions"`
	CacheHits   uint64 `json:"cacheHits"`
	CacheMisses uint64 `json:"cacheMisses"`
	Upstream    uint64 `json:"upstream"` // questions asked of others
}

// An answerDNSView is an answer that the kernel holds.
type answerDNSView struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Scope uint32 `json:"scope,omitempty"`
	Hits  uint64 `json:"hits"`
	// EndsSeconds is how long it is given yet, 0: as long as it is so.
	EndsSeconds float64 `json:"endsSeconds,omitempty"`
}

const dnsPath = "/v1/dns"

func newGetDNS(o *outputOptions) *cobra.Command {
	var (
		pins string
		top  int
	)
	cmd := &cobra.Command{
		Use: "dns", Short: "Show who answers the DNS questions of this node's pods, and which names the kernel answers most",
		RunE: func(cmd *cobra.Command, _ []string) error {
			view, err := readDNS(pins, top)
			if err != nil {
				return err
			}
			if err := view.askAgent(cmd.Context(), agentapi.NewClient(o.socket)); err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "what the agent counts is left out:", err)
			}
			body, err := json.Marshal(view)
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), body, printDNS)
		},
	}
	cmd.Flags().StringVar(&pins, "pins", defaultPinDir, "the directory of the maps' pins")
	cmd.Flags().IntVar(&top, "top", 20, "how many names to show")
	return cmd
}

// readDNS reads what the kernel has, with or without an agent.
func readDNS(pins string, top int) (_ *dnsView, err error) {
	answers, err := bpf.OpenAnswers(pins)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, answers.Close()) }()
	view := &dnsView{Pods: []podDNSView{}, Names: []answerDNSView{}}
	counts, err := answers.Counts()
	if err != nil {
		return nil, err
	}
	for addr, c := range counts {
		view.Pods = append(view.Pods, podDNSView{Address: addr.String(), Hit: c.Hit, Negative: c.Negative, Miss: c.Miss, Punt: c.Punt, Expired: c.Expired})
	}
	for a, err := range answers.All() {
		if err != nil {
			return nil, err
		}
		view.Entries++
		if a.Scope != 0 {
			view.Scoped++
		}
		if a.Hits > 0 && a.Type != dns.TypeNone {
			view.Names = append(view.Names, answerDNSView{
				Name: a.Name, Type: dns.Type(a.Type).String(), Scope: a.Scope, Hits: uint64(a.Hits), EndsSeconds: a.Expires.Seconds(),
			})
		}
	}
	slices.SortFunc(view.Names, func(x, y answerDNSView) int {
		return cmp.Or(cmp.Compare(y.Hits, x.Hits), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Type, y.Type), cmp.Compare(x.Scope, y.Scope))
	})
	view.Names = slices.Clip(view.Names[:min(max(top, 0), len(view.Names))])
	silent, err := answers.Silent()
	view.SilentSeconds = silent.Seconds()
	view.sort()
	return view, err
}

func (v *dnsView) sort() {
	slices.SortFunc(v.Pods, func(x, y podDNSView) int { return cmp.Or(cmp.Compare(x.Pod, y.Pod), cmp.Compare(x.Address, y.Address)) })
}

// askAgent adds what only the agent knows; that there is none is no error.
func (v *dnsView) askAgent(ctx context.Context, agent *agentapi.Client) error {
	var node nodeDNSView
	err := agent.Get(ctx, dnsPath, &node)
	if errors.Is(err, agentapi.ErrUnavailable) {
		return nil
	}
	if err != nil {
		return err
	}
	v.Node = &node
	var pods []podView
	if err := agent.Get(ctx, nouns["pods"].path, &pods); err != nil {
		return err
	}
	names := map[string]string{}
	for _, p := range pods {
		for _, addr := range p.Addresses {
			names[addr] = p.Namespace + "/" + p.Name
		}
	}
	for i := range v.Pods {
		v.Pods[i].Pod = names[v.Pods[i].Address]
	}
	v.sort()
	return nil
}

func printDNS(out io.Writer, body json.RawMessage) error {
	var v dnsView
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POD\tADDRESS\tKERNEL\tHIT\tNEGATIVE\tMISS\tPUNT\tEXPIRED")
	for _, p := range v.Pods {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\n", dash(p.Pod), p.Address, p.share(), p.Hit, p.Negative, p.Miss, p.Punt, p.Expired)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nthe kernel holds %d entries, %d of them for some pods' searches\n", v.Entries, v.Scoped)
	if n := v.Node; n != nil {
		fmt.Fprintf(out, "userspace: %d questions, %d of them answered from the cache, %d that it lacked; %d asked of upstreams\n",
			n.Questions, n.CacheHits, n.CacheMisses, n.Upstream)
	} else {
		fmt.Fprintf(out, "no agent answers; its last sign of life was %s ago\n", time.Duration(v.SilentSeconds*float64(time.Second)).Round(time.Second))
	}
	fmt.Fprintln(w, "\nNAME\tTYPE\tSCOPE\tHITS\tENDS")
	for _, a := range v.Names {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", a.Name, a.Type, scopeText(a.Scope), a.Hits, a.ends())
	}
	return w.Flush()
}

// share is how many of a pod's questions the kernel has answered.
func (p podDNSView) share() string {
	answered := p.Hit + p.Negative
	all := answered + p.Miss + p.Punt + p.Expired
	if all == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(answered)/float64(all))
}

func scopeText(scope uint32) string {
	if scope == 0 {
		return "-"
	}
	return fmt.Sprint(scope)
}

func (a answerDNSView) ends() string {
	switch {
	case a.EndsSeconds == 0:
		return "-"
	case a.EndsSeconds < 0:
		return "ended"
	}
	return time.Duration(a.EndsSeconds * float64(time.Second)).Round(time.Second).String()
}

// podAt finds the address of a pod, which may be one itself.
func podAt(ctx context.Context, agent *agentapi.Client, pod string) (addrs []netip.Addr, err error) {
	if addr, err := netip.ParseAddr(pod); err == nil {
		return []netip.Addr{addr}, nil
	}
	if !strings.Contains(pod, "/") {
		return nil, usageError{fmt.Errorf("%q: want a pod's NAMESPACE/NAME or an address", pod)}
	}
	e := explainer{agent: agent}
	return e.podAddresses(ctx, pod)
}
