package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/agentapi"
)

const explainPolicyPath = "/v1/explain/policy"

// A policyRequest asks what becomes of a new connection.
type policyRequest struct {
	From     string `json:"from"` // namespace/name of a pod, or an address
	To       string `json:"to"`   // likewise, or service/namespace/name
	Protocol uint8  `json:"protocol"`
	Port     uint16 `json:"port"` // ICMP: type<<8 | code; 0 for protocols without ports
}

// A policyAnswer is what becomes of it.
type policyAnswer struct {
	From     endView `json:"from"`
	To       endView `json:"to"`
	Protocol string  `json:"protocol"`
	Port     uint16  `json:"port"`
	// Allowed says whether both directions allow it, by the objects.
	Allowed bool            `json:"allowed"`
	Egress  directionAnswer `json:"egress"`  // of From
	Ingress directionAnswer `json:"ingress"` // of To
	// Backends are the answers about each backend of the Service that To is. It is they that are judged: Egress and Ingress say
	// nothing then, and Allowed is whether all are.
	Backends []policyAnswer `json:"backends,omitempty"`
}

// An endView is one end of a connection.
type endView struct {
	Pod     string     `json:"pod,omitempty"`
	Service string     `json:"service,omitempty"`
	Address netip.Addr `json:"address"`
	// Here says that the pod is one of this node.
	Here bool `json:"here,omitempty"`
}

func (e endView) String() string {
	if e.Service != "" {
		return fmt.Sprintf("Service %s %s", e.Service, e.Address)
	}
	if e.Pod == "" {
		return e.Address.String()
	}
	return fmt.Sprintf("pod %s %s", e.Pod, e.Address)
}

// A directionAnswer is the verdict of one end.
type directionAnswer struct {
	Allowed bool `json:"allowed"`
	// Rule is what decides by the objects.
	Rule string `json:"rule"`
	// Kernel is what the maps of this node say, nil for the end that is not one of its pods.
	Kernel *kernelAnswer `json:"kernel,omitempty"`
}

// A kernelAnswer is what the maps say.
type kernelAnswer struct {
	Allowed    bool   `json:"allowed"`
	Set        string `json:"set"`   // what isolates the pod; 0: nothing does
	Class      string `json:"class"` // what the peer is; 0: no rule names it
	Generation uint32 `json:"generation"`
	// Unasked says that the programs let it pass before they look anything up: it is of the node itself, or of the pod.
	Unasked bool `json:"unasked,omitempty"`
	// Tracked are connections between the ends at the port that the kernel remembers, whatever the other port.
	Tracked []string `json:"tracked,omitempty"`
}

func newExplainPolicy() *cobra.Command {
	var o outputOptions
	cmd := &cobra.Command{
		Use:   "policy SRC DST PORT[/PROTOCOL]",
		Short: "Say which policies decide on a connection between pods, and whether the kernel has it so",
		Long: `Say which policies decide on a new connection from SRC to DST, each NAMESPACE/NAME of a pod or an address: what the
source's egress says and the destination's ingress, by which rule of which object, and beside it what the kernel's maps of this
node say for those that are pods here. DST may also be a Service, service/NAMESPACE/NAME or its address: each of its backends that SRC may
get is judged. PORT is that of the destination; PROTOCOL is TCP unless given, or UDP, SCTP, ICMP
or ICMPv6, whose port is the type, or a number. The exit status is 1 if the kernel differs from the objects.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 3 {
				return usageError{fmt.Errorf("explain policy: %d arguments: give a source, a destination and a port", len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			r := policyRequest{From: args[0], To: args[1]}
			if err := r.parsePort(args[2]); err != nil {
				return err
			}
			var body json.RawMessage
			if err := agentapi.NewClient(o.socket).Post(cmd.Context(), explainPolicyPath, r, &body); err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), body, printPolicyAnswer)
		},
	}
	o.addTo(cmd)
	return cmd
}

// policyProtocols are those that have names.
var policyProtocols = map[string]uint8{
	"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP, "SCTP": unix.IPPROTO_SCTP, "ICMP": unix.IPPROTO_ICMP, "ICMPV6": unix.IPPROTO_ICMPV6,
}

// parsePort reads PORT[/PROTOCOL].
func (r *policyRequest) parsePort(text string) error {
	number, protocol, given := strings.Cut(text, "/")
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return usageError{fmt.Errorf("%q: want a port and perhaps a protocol, as 53/UDP", text)}
	}
	r.Port, r.Protocol = uint16(port), unix.IPPROTO_TCP
	if !given {
		return nil
	}
	known, ok := policyProtocols[strings.ToUpper(protocol)]
	if !ok {
		n, err := strconv.ParseUint(protocol, 10, 8)
		if err != nil {
			return usageError{fmt.Errorf("%q: want the protocol TCP, UDP, SCTP, ICMP, ICMPv6 or a number", text)}
		}
		known = uint8(n)
	}
	r.Protocol = known
	switch known {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		if port > 0xff {
			return usageError{fmt.Errorf("%q: a type of ICMP is 255 at most", text)}
		}
		r.Port = uint16(port) << 8
	default:
		r.Port = 0
	}
	return nil
}

func isICMP(p uint8) bool { return p == unix.IPPROTO_ICMP || p == unix.IPPROTO_ICMPV6 }

// policyProtocolName is the inverse of policyProtocols.
func policyProtocolName(p uint8) string {
	for name, number := range policyProtocols {
		if number == p {
			return strings.ReplaceAll(name, "V6", "v6")
		}
	}
	return fmt.Sprint(p)
}

func verdictText(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "denied"
}

func printPolicyAnswer(w io.Writer, body json.RawMessage) error {
	var a policyAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return err
	}
	if a.To.Service == "" {
		return a.print(w)
	}
	fmt.Fprintf(w, "%s -> %s, %s port %d: %d backends, each judged by itself\n", a.From, a.To, a.Protocol, a.Port, len(a.Backends))
	var errs []error
	for _, one := range a.Backends {
		errs = append(errs, one.print(w))
	}
	return errors.Join(errs...)
}

// print fails if the kernel differs from the objects.
func (a policyAnswer) print(w io.Writer) error {
	fmt.Fprintf(w, "%s -> %s, %s port %d: %s\n", a.From, a.To, a.Protocol, a.Port, verdictText(a.Allowed))
	var differ []string
	for _, d := range []struct {
		name string
		end  endView
		directionAnswer
	}{{egressName, a.From, a.Egress}, {ingressName, a.To, a.Ingress}} {
		fmt.Fprintf(w, "%s of %s: %s\n", d.name, d.end, d.Rule)
		if d.Kernel == nil {
			continue
		}
		if d.Kernel.Unasked {
			fmt.Fprintln(w, "  allowed by the kernel, which does not ask its maps for this")
		} else {
			fmt.Fprintf(w, "  %s by the kernel: set %s, class %s, generation %d\n", verdictText(d.Kernel.Allowed), d.Kernel.Set, d.Kernel.Class, d.Kernel.Generation)
		}
		for _, t := range d.Kernel.Tracked {
			fmt.Fprintln(w, "  remembered:", t)
		}
		if d.Kernel.Allowed != d.Allowed {
			differ = append(differ, d.name)
		}
	}
	if len(differ) > 0 {
		return fmt.Errorf("the kernel differs from the objects: %s", strings.Join(differ, " and "))
	}
	return nil
}
