package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/agentapi"
)

const explainDNSPath = "/v1/explain/dns"

// A dnsRequest asks the agent what it does about a name that a pod looks up.
type dnsRequest struct {
	Address string `json:"address"`
	Name    string `json:"name"`
	Type    uint16 `json:"type"`
}

// A lookupView is what becomes of a name that a pod looks up.
type lookupView struct {
	Pod   string `json:"pod"`
	Name  string `json:"name"`
	Type  string `json:"type"`
	Scope uint32 `json:"scope,omitempty"`
	// Agent is what the agent says, nil without one.
	Agent *agentLookupView `json:"agent,omitempty"`
	// Questions are those that the pod's resolver asks, in their order, as far as is known.
	Questions []questionView `json:"questions"`
}

// An agentLookupView is what the agent knows of it.
type agentLookupView struct {
	// Search and Ndots are the pod's, as far as they are known.
	Search []string `json:"search,omitempty"`
	Ndots  int      `json:"ndots,omitempty"`
	// Autopath says what the agent does about the search.
	Autopath  string          `json:"autopath,omitempty"`
	Questions []agentQuestion `json:"questions"`
}

// An agentQuestion is a question of the search, and who answers it in userspace.
type agentQuestion struct {
	Name    string   `json:"name"`
	Layer   string   `json:"layer"`
	Status  string   `json:"status,omitempty"` // of the cluster's zone
	Records []string `json:"records,omitempty"`
}

// A questionView is one question on its way.
type questionView struct {
	Name    string   `json:"name"`
	Kernel  string   `json:"kernel"` // hit, negative, miss, punt or expired
	Why     string   `json:"why"`
	Status  string   `json:"status,omitempty"` // of the kernel's answer
	Records []string `json:"records,omitempty"`
	Hits    uint64   `json:"hits,omitempty"`
	// Userspace is who answers if the kernel does not.
	Userspace *agentQuestion `json:"userspace,omitempty"`
}

func newExplainDNS() *cobra.Command {
	var (
		o    outputOptions
		pins string
	)
	cmd := &cobra.Command{
		Use:   "dns POD NAME [TYPE]",
		Short: "Say which names a pod's lookup asks for, who answers each, and why",
		Long: `Say which names a pod's lookup asks for, who answers each of them (the kernel, the cluster's zone, the cache or an
upstream), and why. POD is NAMESPACE/NAME or an address, TYPE is A unless given. Without an agent POD must be an address, and NAME is taken
as it is: the kernel does not know pods' searches.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 && len(args) != 3 {
				return usageError{fmt.Errorf("explain dns: %d arguments: give a pod, a name and perhaps a type", len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			qtype := dns.TypeA
			if len(args) == 3 {
				var ok bool
				if qtype, ok = dns.StringToType[strings.ToUpper(args[2])]; !ok {
					return usageError{fmt.Errorf("%q is not a type of DNS records", args[2])}
				}
			}
			view, err := explainDNS(cmd.Context(), agentapi.NewClient(o.socket), pins, args[0], args[1], qtype)
			if err != nil {
				return err
			}
			body, err := json.Marshal(view)
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), body, printLookup)
		},
	}
	o.addTo(cmd)
	cmd.Flags().StringVar(&pins, "pins", defaultPinDir, "the directory of the maps' pins")
	return cmd
}

func explainDNS(ctx context.Context, agent *agentapi.Client, pins, pod, name string, qtype uint16) (_ *lookupView, err error) {
	if _, ok := dns.IsDomainName(name); !ok {
		return nil, usageError{fmt.Errorf("%q is not a domain name", name)}
	}
	addrs, err := podAt(ctx, agent, pod)
	if err != nil {
		return nil, err
	}
	answers, err := bpf.OpenAnswers(pins)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, answers.Close()) }()
	view := &lookupView{Pod: pod, Name: name, Type: dns.Type(qtype).String(), Questions: []questionView{}}
	if view.Scope, err = scopeAt(answers, addrs); err != nil {
		return nil, err
	}
	var known agentLookupView
	switch err := agent.Post(ctx, explainDNSPath, dnsRequest{addrs[0].String(), name, qtype}, &known); {
	case err == nil:
		view.Agent = &known
	case errors.Is(err, agentapi.ErrUnavailable):
		known.Questions = []agentQuestion{{Name: dns.Fqdn(name)}}
	default:
		return nil, err
	}
	for _, q := range known.Questions {
		v, err := answers.Decide(q.Name, qtype, view.Scope)
		if err != nil {
			return nil, err
		}
		question := newQuestionView(q.Name, v)
		if view.Agent != nil {
			question.Userspace = &q
		}
		view.Questions = append(view.Questions, question)
		if question.ends() {
			break
		}
	}
	return view, nil
}

func scopeAt(answers *bpf.PinnedAnswers, addrs []netip.Addr) (uint32, error) {
	for _, addr := range addrs {
		if scope, ok, err := answers.Scope(addr); ok || err != nil {
			return scope, err
		}
	}
	return 0, usageError{fmt.Errorf("%s is no address of a pod of this node: other questions do not pass the kernel's answers", addrs[0])}
}

func newQuestionView(name string, v bpf.DNSVerdict) questionView {
	q := questionView{Name: name, Kernel: v.Outcome.String(), Why: reasonText(v), Hits: uint64(v.Answer.Hits)}
	switch {
	case v.Outcome == bpf.DNSNegative && v.Reason == bpf.DNSNoSuchName:
		q.Status = "NXDOMAIN"
	case v.Outcome == bpf.DNSNegative && v.Reason == bpf.DNSNoSuchType:
		q.Status = "NODATA"
	case v.Outcome == bpf.DNSHit || v.Outcome == bpf.DNSNegative:
		q.Status, q.Records = responseText(v.Answer.Response)
	}
	return q
}

// responseText is the status of a packed response, and its answers.
func responseText(response []byte) (status string, records []string) {
	var m dns.Msg
	if err := m.Unpack(response); err != nil {
		return "not readable: " + err.Error(), nil
	}
	return statusText(m.Rcode, m.Answer), recordTexts(m.Answer)
}

func statusText(rcode int, answer []dns.RR) string {
	if rcode == dns.RcodeSuccess && len(answer) == 0 {
		return "NODATA"
	}
	return dns.RcodeToString[rcode]
}

func recordTexts(rrs []dns.RR) (texts []string) {
	for _, rr := range rrs {
		texts = append(texts, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	return texts
}

func reasonText(v bpf.DNSVerdict) string {
	switch v.Reason {
	case bpf.DNSEntered:
		if v.Answer.Scope != 0 {
			return "it holds the answer to searches like this pod's"
		}
		return "it holds the answer"
	case bpf.DNSPast:
		return "it holds an answer whose time is over"
	case bpf.DNSNoSuchType:
		return "it knows the name, which has no such record"
	case bpf.DNSNoSuchName:
		return "it knows every name of the cluster, and this is none"
	case bpf.DNSAsksType:
		return "it knows the name, and that the agent knows more: an ExternalName, more addresses than it holds, or ports"
	case bpf.DNSAsksBelow:
		return "it knows " + v.Answer.Name + ", and leaves the names below it to the agent"
	case bpf.DNSMaySearch:
		return "the pod may be searching: the agent knows where to go on"
	case bpf.DNSNotInZone:
		return "the name is not the cluster's, and has not been asked for twice of late"
	case bpf.DNSIncomplete:
		return "it does not know all names of the cluster"
	case bpf.DNSNobodyThere:
		return "the agent has been silent for too long"
	case bpf.DNSOfPodsOrPort:
		return "names of pods and ports are the agent's"
	}
	return "questions of this type are the agent's"
}

// ends says that the resolver asks no further: there is data, or nobody knows.
func (q questionView) ends() bool {
	if q.Kernel == bpf.DNSHit.String() {
		return true
	}
	if q.Kernel == bpf.DNSNegative.String() {
		return false
	}
	return q.Userspace == nil || q.Userspace.Status == "" || q.Userspace.Status == dns.RcodeToString[dns.RcodeSuccess]
}

func printLookup(w io.Writer, body json.RawMessage) error {
	var v lookupView
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	fmt.Fprintf(w, "pod %s looks up %s %s\n", v.Pod, v.Name, v.Type)
	switch {
	case v.Agent == nil:
		fmt.Fprintln(w, "no agent answers: the pod's search is not known, and what the kernel does not answer goes to the cluster's DNS")
	case len(v.Agent.Search) == 0:
		fmt.Fprintln(w, "it searches nowhere, or nobody knows where")
	default:
		fmt.Fprintf(w, "it searches %s, ndots %d; %s\n", strings.Join(v.Agent.Search, " "), v.Agent.Ndots, v.Agent.Autopath)
	}
	for i, q := range v.Questions {
		fmt.Fprintf(w, "%d. %s\n", i+1, q.Name)
		if q.Status != "" {
			fmt.Fprintf(w, "   the kernel answers %s: %s%s\n", q.Status, q.Why, hitsText(q.Hits))
		} else {
			fmt.Fprintf(w, "   the kernel does not answer: %s\n", q.Why)
		}
		records := q.Records
		if u := q.Userspace; u != nil && q.Status == "" {
			fmt.Fprintf(w, "   %s\n", strings.Join(strings.Fields(u.Layer+" "+u.Status), " "))
			records = u.Records
		}
		for _, record := range records {
			fmt.Fprintf(w, "     %s\n", record)
		}
	}
	return nil
}

func hitsText(hits uint64) string {
	if hits == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d times so far)", hits)
}
