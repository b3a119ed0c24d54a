package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// How long a connection is remembered after its last packet: as long as by conntrack under kube-proxy
// (nf_conntrack-sysctl in the kernel's documentation; kube-proxy's --conntrack-tcp-timeout-*), but for those that both
// sides have closed. Linux keeps these for 120 s; they are what a busy table is full of.
const (
	flowUDPOneWay   = 30 * time.Second
	flowUDP         = 120 * time.Second
	flowOpening     = 60 * time.Second
	flowEstablished = 24 * time.Hour
	flowHalfClosed  = time.Hour
	flowClosed      = 30 * time.Second
	flowReset       = 10 * time.Second
	// Linux gives an SCTP association that is being made or ended 3 s, which is less than a sweep looks at.
	flowSCTP        = 210 * time.Second
	flowSCTPChanges = 10 * time.Second
	// flowShortest is the shortest of them: what was used since is not looked at.
	flowShortest = flowReset
)

// flowBatch is how many flows one system call reads.
const flowBatch = 4096

// A Flow is a translated connection as one of its two sides sends it.
type Flow struct {
	Protocol uint8
	// Source and Destination are those of the packets as they come.
	Source, Destination netip.AddrPort
	// NewSource and NewDestination are those of the packets as they leave.
	NewSource, NewDestination netip.AddrPort
	// Link is the interface index they leave by; 0: they go on in the node's stack.
	Link int
	// Reply says that this is the backend's side.
	Reply bool
	// LastSeen is when a packet of this side last came, to a second, on the clock of Clock.
	LastSeen time.Duration
}

func (f Flow) String() string {
	return fmt.Sprintf("%d %s -> %s: %s -> %s", f.Protocol, f.Source, f.Destination, f.NewSource, f.NewDestination)
}

// FlowStats is what a Sweep found.
type FlowStats struct {
	// Flows is how many entries are left, and Max how many fit. A connection has two.
	Flows, Max int
	// Swept is how many entries the Sweep removed.
	Swept int
	// Full and NoPort count connections that were refused since the datapath was first loaded: there was no room for
	// them, or the node had no port left to their backend. Lost counts packets that could not be translated.
	Full, NoPort, Lost uint64
}

// Flows are the connections that the packet path translates. Methods are safe for concurrent use.
type Flows struct {
	flows, counts, pods *ebpf.Map
	sweepMu             sync.Mutex         // held while flows are swept
	mu                  sync.Mutex         // guards gone
	gone                map[[4]uint32]bool // addresses of deleted pods whose flows may still be there
}

// Clock is the time that flows are stamped with: CLOCK_MONOTONIC.
func Clock() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read the clock of flows: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// each calls f for the entries, which may be changed meanwhile: each that stays is seen once, or, if the map is
// changed much, twice.
func (f *Flows) each(visit func(packetFlowKey, packetFlow) error) error {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]packetFlowKey, flowBatch), make([]packetFlow, flowBatch)
	for {
		n, err := f.flows.BatchLookup(&cursor, keys, values, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return fmt.Errorf("read flows: %w", err)
		}
		for i := range n {
			if err := visit(keys[i], values[i]); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// List reads all flows, in no order.
func (f *Flows) List() (out []Flow, err error) {
	err = f.each(func(k packetFlowKey, v packetFlow) error {
		out = append(out, Flow{
			Protocol: k.Proto, Source: addrPort(k.Saddr, k.Sport), Destination: addrPort(k.Daddr, k.Dport),
			NewSource: addrPort(v.Saddr, v.Sport), NewDestination: addrPort(v.Daddr, v.Dport),
			Link: int(v.Link), Reply: isReply(v), LastSeen: time.Duration(v.LastSeen),
		})
		return nil
	})
	return out, err
}

func idle(now time.Duration, lastSeen uint64) time.Duration { return now - time.Duration(lastSeen) }

// sweep forgets the connection of one entry if its time has come or its pod is gone. It reads both entries anew: what it saw may be old.
func (f *Flows) sweep(now time.Duration, key packetFlowKey, j *judge) (n int, err error) {
	v, ok, err := f.lookup(key)
	if err != nil || !ok {
		return 0, err
	}
	other := turn(key, v)
	o, ok, err := f.lookup(other)
	if err != nil {
		return 0, err
	}
	if !ok {
		// Half of a connection: of one that is just being added or removed, or that could not be added whole.
		if idle(now, v.LastSeen) < flowShortest && !j.ofGone(key, v) {
			return 0, nil
		}
		return f.remove(key)
	}
	lost, err := j.lost(key, v, o)
	if err != nil {
		return 0, err
	}
	if !lost && min(idle(now, v.LastSeen), idle(now, o.LastSeen)) < lifetime(key.Proto, v, o) {
		return 0, nil
	}
	// The client's entry goes first: without the other one an answer could leave untranslated.
	first, second := key, other
	if isReply(v) {
		first, second = other, key
	}
	a, err := f.remove(first)
	if err != nil {
		return a, err
	}
	b, err := f.remove(second)
	return a + b, err
}

func (f *Flows) lookup(key packetFlowKey) (v packetFlow, ok bool, err error) {
	err = f.flows.Lookup(key, &v)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return v, false, nil
	}
	if err != nil {
		return v, false, fmt.Errorf("look up a flow: %w", err)
	}
	return v, true, nil
}

func (f *Flows) remove(key packetFlowKey) (int, error) {
	err := f.flows.Delete(key)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("remove a flow: %w", err)
	}
	return 1, nil
}

// lifetime is how long a connection with these two entries may be idle.
func lifetime(proto uint8, a, b packetFlow) time.Duration {
	either := func(bit packetFlowFlags) bool { return (a.Flags|b.Flags)&uint32(bit) != 0 }
	both := func(bit packetFlowFlags) bool { return a.Flags&b.Flags&uint32(bit) != 0 }
	switch answered := both(packetFlowFlagsFLOW_SEEN); {
	case proto == unix.IPPROTO_UDP && answered:
		return flowUDP
	case proto == unix.IPPROTO_UDP:
		return flowUDPOneWay
	case either(packetFlowFlagsFLOW_RST):
		return flowReset
	case proto == unix.IPPROTO_SCTP && answered && !either(packetFlowFlagsFLOW_FIN):
		return flowSCTP
	case proto == unix.IPPROTO_SCTP:
		return flowSCTPChanges
	case both(packetFlowFlagsFLOW_FIN):
		return flowClosed
	case either(packetFlowFlagsFLOW_FIN):
		return flowHalfClosed
	case answered:
		return flowEstablished
	}
	return flowOpening
}

// turn is the key of a connection's other entry.
func turn(k packetFlowKey, v packetFlow) packetFlowKey {
	return packetFlowKey{Saddr: v.Daddr, Daddr: v.Saddr, Sport: v.Dport, Dport: v.Sport, Proto: k.Proto}
}

func (f *Flows) readCounts(s *FlowStats) (err error) {
	for which, to := range map[packetPacketCount]*uint64{
		packetPacketCountCOUNT_FLOWS_FULL: &s.Full, packetPacketCountCOUNT_NO_PORT: &s.NoPort, packetPacketCountCOUNT_LOST_FLOW: &s.Lost,
	} {
		if *to, err = readCount(f.counts, which); err != nil {
			return err
		}
	}
	return nil
}

func addrPort(addr [4]uint32, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(address(addr), swap16(port))
}
