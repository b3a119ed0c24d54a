package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/policy"
)

// kernelVerdict is what the maps say of a pod's direction about a peer at a point, as the programs read them.
func (s *policySync) kernelVerdict(p localPod, ingress bool, peer netip.Addr, point uint32) (*kernelAnswer, error) {
	k := s.cfg.Kernel
	set := k.Sets(p.Number)[policy.Egress]
	if ingress {
		set = k.Sets(p.Number)[policy.Ingress]
	}
	class, err := k.Class(peer)
	if err != nil {
		return nil, err
	}
	a := &kernelAnswer{Allowed: set == 0, Set: idText(set), Class: idText(class), Generation: k.Generation()}
	if set != 0 {
		if a.Allowed, _, err = k.Verdict(bpf.PolicyKey{Set: set, Class: class}, point); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func idText(id uint64) string {
	if id == 0 {
		return "0"
	}
	return fmt.Sprintf("%#x", id)
}

// trackedTexts are the connections between two ends at a port of the destination, whichever side the pod is on. A packet of one
// of them passes, or not, as it was judged for the connection.
func trackedTexts(all []bpf.TrackedFlow, pod localPod, r policyRequest, from, to netip.Addr) (texts []string) {
	for _, t := range all {
		source, destination := t.Pod, t.Peer
		if t.Ingress {
			source, destination = t.Peer, t.Pod
		}
		between := t.Protocol == r.Protocol && slices.Contains(pod.Addrs, t.Pod.Addr()) &&
			source.Addr() == from && (destination.Addr() == to || t.Judged == to)
		if !between || t.Point != r.point() {
			continue
		}
		text := fmt.Sprintf("%s -> %s, generation %d", source, destination, t.Generation)
		if t.Judged != t.Peer.Addr() {
			text += fmt.Sprintf(", judged as %s", t.Judged)
		}
		if t.Denied {
			text += ", cut by a later policy"
		}
		texts = append(texts, text)
	}
	slices.SortFunc(texts, strings.Compare)
	return texts[:min(len(texts), maxTrackedTexts)]
}

// maxTrackedTexts is how many connections are shown.
const maxTrackedTexts = 5

// point is what policies judge.
func (r policyRequest) point() uint32 { return uint32(r.Protocol)<<16 | uint32(r.Port) }

// policyUse says how full the kernel's tables of policies are.
func policyUse(k policyKernel) []policyMapView {
	used, room := k.Used(), k.Room()
	return []policyMapView{
		{"verdicts", used.Verdicts, room.Verdicts}, {"peers", used.Peers, room.Peers}, {"networks", used.CIDRs, room.CIDRs},
		{"intervals", used.Cells, room.Cells}, {"pods", used.Pods, room.Pods},
	}
}

// peersInUse are whom connections that are remembered were judged for.
func peersInUse(t *bpf.Tracked) (map[netip.Addr]bool, error) {
	all, err := t.List()
	if err != nil {
		return nil, err
	}
	peers := make(map[netip.Addr]bool, len(all))
	for _, one := range all {
		peers[one.Judged] = true
	}
	return peers, nil
}
