package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/policy"
)

// dropOf says in names what the kernel tells of a packet.
func (s *policySync) dropOf(e bpf.PolicyEvent) dropView {
	d := dropView{
		Time: wallTime(e.Time), Address: e.Pod.Addr(), PeerAddress: e.Peer.Addr(), Direction: directionName(e.Ingress),
		Protocol: policyProtocolName(e.Protocol), Reason: outcomeText(e.Outcome), Logged: e.Outcome == bpf.PolicyLogged, Generation: e.Generation,
	}
	switch e.Protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
		d.Port, d.SourcePort = uint16(e.Point), e.Peer.Port()
		if !e.Ingress {
			d.SourcePort = e.Pod.Port()
		}
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		d.Port = uint16(e.Point) >> 8
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pods {
		if p.Number == e.Number && slices.Contains(p.Addrs, d.Address) {
			d.Pod = p.name().String()
			d.Policies = s.isolating(p, directionOf(e.Ingress))
		}
		if slices.Contains(p.Addrs, d.PeerAddress) {
			d.PeerPod = p.name().String()
		}
	}
	if d.PeerPod == "" && s.snapshot != nil {
		if peer := s.snapshot.PolicyPodByIP(d.PeerAddress); peer != nil {
			d.PeerPod = peer.Name.String()
		}
	}
	return d
}

// isolating names the policies that isolate a pod. The caller holds mu.
func (s *policySync) isolating(p localPod, d policy.Direction) []string {
	names := []string{}
	for _, ref := range s.cfg.Planner.Isolating(p.Number, d) {
		names = append(names, ref.String())
	}
	return names
}

func directionOf(ingress bool) policy.Direction {
	if ingress {
		return policy.Ingress
	}
	return policy.Egress
}

func directionName(ingress bool) string {
	if ingress {
		return ingressName
	}
	return egressName
}

func outcomeText(o bpf.PolicyOutcome) string {
	switch o {
	case bpf.PolicyDenied:
		return "no policy allows it"
	case bpf.PolicyUnknown:
		return "it cannot be judged, a fragment or a header that is not known"
	case bpf.PolicyFull:
		return "there is no room for another connection"
	case bpf.PolicyLogged:
		return "allowed by a rule that logs"
	default:
		return o.String()
	}
}

// wallTime is the time of day of a moment on the kernel's clock.
func wallTime(at time.Duration) time.Time {
	now, err := bpf.Clock()
	if err != nil {
		return time.Now()
	}
	return time.Now().Add(at - now)
}

// local lists the pods of this node in the order of their names.
func (s *policySync) local() []localPod {
	s.mu.Lock()
	defer s.mu.Unlock()
	pods := make([]localPod, 0, len(s.pods))
	for _, p := range s.pods {
		pods = append(pods, p)
	}
	slices.SortFunc(pods, func(a, b localPod) int {
		return cmp.Or(cmp.Compare(a.name().String(), b.name().String()), a.key().Compare(b.key()))
	})
	return pods
}

// refusedFlows is how many connections of each pod there was no room for.
func (s *policySync) refusedFlows() (map[string]uint64, error) {
	counts, err := countsByPod(s.local(), s.cfg.Kernel)
	if err != nil {
		return nil, fmt.Errorf("read what policy counts: %w", err)
	}
	refused := make(map[string]uint64, len(counts))
	for name, n := range counts {
		refused[name.String()] = n[0].Full + n[1].Full
	}
	return refused, nil
}
