package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// How long a connection that policy has judged is remembered after its last packet, besides what is said of flows.
const (
	trackedICMP = 30 * time.Second
	// trackedClosed is shorter than flowClosed, as no port is at stake: what is late then is a FIN that was lost. A pod's quarter of
	// the table is 6500 connections a second.
	trackedClosed = 10 * time.Second
	// trackedOther is net.netfilter.nf_conntrack_generic_timeout.
	trackedOther = 600 * time.Second
	// trackedDenied is more than TCP waits before it sends again (RFC 6298, 2.4 and Linux's TCP_RTO_MAX of 120 s): meanwhile
	// nothing of the connection passes, whatever the packet's own direction allows.
	trackedDenied = 300 * time.Second
)

// A TrackedFlow is a connection of a pod that policy has judged.
type TrackedFlow struct {
	Protocol uint8
	// Pod and Peer are those of the packets as they are on the pod's device; of ICMP's echo the ports are its id.
	Pod, Peer netip.AddrPort
	// Judged is whom policy has judged: a Service's backend, or the client that the node's address stands for. Point is for what.
	Judged netip.Addr
	Point  uint32
	// Ingress says that the peer has begun it.
	Ingress bool
	// Denied says that it was allowed once, and is no more.
	Denied bool
	// Generation is that in which it was judged last, see Policy.Bump.
	Generation uint32
	Number     uint16        // of the pod
	LastSeen   time.Duration // on the clock of Clock, to a second
}

// TrackedStats is what a Sweep found.
type TrackedStats struct {
	// Entries is how many are left, Max how many fit, and Share how many one pod may have.
	Entries, Max, Share int
	// Denied is how many of them are there to drop packets.
	Denied int
	// Swept is how many the Sweep removed.
	Swept int
	// Pods is how many entries each pod has, by number.
	Pods map[uint16]int
}

// Tracked are the connections that policy has judged. Methods are safe for concurrent use.
type Tracked struct {
	entries *ebpf.Map
	share   uint32
	sweepMu sync.Mutex         // held while entries are swept
	shares  []uint64           // mapped; each pod's first word is how many it has
	mu      sync.Mutex         // guards gone
	gone    map[[4]uint32]bool // addresses of deleted pods whose entries may still be there
}

// trackedShares is TRACKED_SHARES: one pod may have one in so many of the entries.
const trackedShares = 4

// shareWords is how many words struct policy_share has.
const shareWords = 4

func newTracked(maps *policyMaps, share uint32) (*Tracked, error) {
	shares, err := mapWords(maps.Shares)
	if err != nil {
		return nil, fmt.Errorf("map policy_shares: %w", err)
	}
	return &Tracked{entries: maps.Tracked, share: share, shares: shares, gone: map[[4]uint32]bool{}}, nil
}

// List reads all connections, in no order.
func (t *Tracked) List() (out []TrackedFlow, err error) {
	err = eachBatch(t.entries, func(k packetFlowKey, v packetTracked) error {
		out = append(out, trackedFlow(k, v))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tracked connections: %w", err)
	}
	return out, nil
}

// Lookup finds the connection between a pod and a peer, as they are on the pod's device.
func (t *Tracked) Lookup(protocol uint8, pod, peer netip.AddrPort) (TrackedFlow, bool, error) {
	k := packetFlowKey{Saddr: words(pod.Addr()), Daddr: words(peer.Addr()), Sport: swap16(pod.Port()), Dport: swap16(peer.Port()), Proto: protocol}
	var v packetTracked
	err := t.entries.Lookup(k, &v)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return TrackedFlow{}, false, nil
	}
	if err != nil {
		return TrackedFlow{}, false, fmt.Errorf("look up a tracked connection: %w", err)
	}
	return trackedFlow(k, v), true, nil
}

func trackedFlow(k packetFlowKey, v packetTracked) TrackedFlow {
	return TrackedFlow{
		Protocol: k.Proto, Pod: addrPort(k.Saddr, k.Sport), Peer: addrPort(k.Daddr, k.Dport), Judged: address(v.Peer), Point: v.Point,
		Ingress: v.Flags&uint8(packetTrackedFlagsTRACKED_IN) != 0, Denied: denied(v), Generation: v.Generation, Number: v.Number,
		LastSeen: time.Duration(v.LastSeen),
	}
}

func denied(v packetTracked) bool { return v.Flags&uint8(packetTrackedFlagsTRACKED_DENIED) != 0 }

// trackedLifetime is how long a connection may be idle.
func trackedLifetime(proto uint8, v packetTracked) time.Duration {
	either := func(bit packetTrackedEnd) bool { return (v.End[0]|v.End[1])&uint8(bit) != 0 }
	both := func(bit packetTrackedEnd) bool { return v.End[0]&v.End[1]&uint8(bit) != 0 }
	answered := both(packetTrackedEndEND_SEEN)
	switch {
	case denied(v):
		return trackedDenied
	case proto == unix.IPPROTO_UDP && answered:
		return flowUDP
	case proto == unix.IPPROTO_UDP:
		return flowUDPOneWay
	case proto == unix.IPPROTO_ICMP || proto == unix.IPPROTO_ICMPV6:
		return trackedICMP
	case proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_SCTP:
		return trackedOther
	case either(packetTrackedEndEND_RST):
		return flowReset
	case proto == unix.IPPROTO_SCTP && answered && !either(packetTrackedEndEND_FIN):
		return flowSCTP
	case proto == unix.IPPROTO_SCTP:
		return flowSCTPChanges
	case both(packetTrackedEndEND_FIN):
		return trackedClosed
	case either(packetTrackedEndEND_FIN):
		return flowHalfClosed
	case answered:
		return flowEstablished
	}
	return flowOpening
}

// Sweep forgets connections that were idle for too long, or whose pod is gone, and corrects how many each pod is said to have. It
// is to be called every few seconds with now from Clock.
func (t *Tracked) Sweep(now time.Duration) (TrackedStats, error) {
	t.sweepMu.Lock()
	defer t.sweepMu.Unlock()
	s := TrackedStats{Max: int(t.entries.MaxEntries()), Share: int(t.share), Pods: map[uint16]int{}}
	gone := t.goneNow()
	err := eachBatch(t.entries, func(k packetFlowKey, v packetTracked) error {
		swept, err := t.sweep(now, k, v, gone)
		if err != nil {
			return err
		}
		if swept {
			s.Swept++
			return nil
		}
		s.Entries++
		if denied(v) {
			s.Denied++
		}
		s.Pods[v.Number]++
		return nil
	})
	if err != nil {
		return s, fmt.Errorf("sweep tracked connections: %w", err)
	}
	for n := range len(t.shares) / shareWords {
		atomic.StoreUint64(&t.shares[n*shareWords], uint64(s.Pods[uint16(n)]))
	}
	t.swept(gone)
	return s, nil
}

// sweep forgets one connection if its time has come. It reads the entry anew: what was seen may be old.
func (t *Tracked) sweep(now time.Duration, k packetFlowKey, v packetTracked, gone map[[4]uint32]bool) (bool, error) {
	if gone[k.Saddr] {
		return true, ignoreMissing(t.entries.Delete(k))
	}
	if idle(now, v.LastSeen) < trackedLifetime(k.Proto, v) {
		return false, nil
	}
	if err := t.entries.Lookup(k, &v); err != nil {
		return errors.Is(err, ebpf.ErrKeyNotExist), ignoreMissing(err)
	}
	if idle(now, v.LastSeen) < trackedLifetime(k.Proto, v) {
		return false, nil
	}
	return true, ignoreMissing(t.entries.Delete(k))
}

// Forget forgets the connections of pods at the addresses. It reads all entries.
func (t *Tracked) Forget(addrs []netip.Addr) error {
	of := map[[4]uint32]bool{}
	for _, a := range addrs {
		of[words(a)] = true
	}
	t.sweepMu.Lock()
	defer t.sweepMu.Unlock()
	err := eachBatch(t.entries, func(k packetFlowKey, _ packetTracked) error {
		if !of[k.Saddr] {
			return nil
		}
		return ignoreMissing(t.entries.Delete(k))
	})
	if err != nil {
		return fmt.Errorf("forget tracked connections of %v: %w", addrs, err)
	}
	t.swept(of)
	return nil
}

// forgetLater makes the next sweep forget the connections of a pod that is no more.
func (t *Tracked) forgetLater(a netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gone[words(a)] = true
}

// forgetBefore forgets connections of pods that had the addresses before, unless a sweep has done so since they were deleted.
func (t *Tracked) forgetBefore(addrs []netip.Addr) error {
	gone := t.goneNow()
	for _, a := range addrs {
		if gone[words(a)] {
			return t.Forget(addrs)
		}
	}
	return nil
}

func (t *Tracked) goneNow() map[[4]uint32]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	gone := make(map[[4]uint32]bool, len(t.gone))
	for a := range t.gone {
		gone[a] = true
	}
	return gone
}

// swept is called when no entry of the addresses is left.
func (t *Tracked) swept(addrs map[[4]uint32]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for a := range addrs {
		delete(t.gone, a)
	}
}

func (t *Tracked) close() error { return unmapWords(t.shares) }
