package bpf

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// A PolicyOutcome is what policy makes of a packet.
type PolicyOutcome uint8

// What becomes of packets.
const (
	// PolicyAllowed are connections that began, and packets that are not of one.
	PolicyAllowed = PolicyOutcome(packetPolicyOutcomePOLICY_ALLOWED)
	// PolicyDenied are packets that no rule allows.
	PolicyDenied = PolicyOutcome(packetPolicyOutcomePOLICY_DENIED)
	// PolicyUnknown are packets that cannot be judged: fragments of unknown datagrams, headers that are cut off or not known.
	PolicyUnknown = PolicyOutcome(packetPolicyOutcomePOLICY_UNKNOWN)
	// PolicyFull are connections that were refused because the node's table of connections, or the pod's quarter of it, is full.
	PolicyFull = PolicyOutcome(packetPolicyOutcomePOLICY_FULL)
	// PolicyLogged are connections that began by a PolicyInterval with Log. Only events have it.
	PolicyLogged = PolicyOutcome(packetPolicyOutcomePOLICY_LOGGED)
)

func (o PolicyOutcome) String() string {
	names := [...]string{
		PolicyAllowed: "allowed", PolicyDenied: "denied", PolicyUnknown: "unknown", PolicyFull: "full", PolicyLogged: "logged",
	}
	if int(o) < len(names) {
		return names[o]
	}
	return fmt.Sprintf("outcome %d", uint8(o))
}

// PolicyCounts are what became of a pod's packets of one direction since it was put, by PolicyOutcome.
type PolicyCounts struct{ Allowed, Denied, Unknown, Full uint64 }

// Counts returns those of the pod that has the number.
func (p *Policy) Counts(number uint16) (ingress, egress PolicyCounts, err error) {
	var each []packetPolicyCounts
	if err := p.maps.Counts.Lookup(uint32(number), &each); err != nil {
		return ingress, egress, fmt.Errorf("counts of pod number %d: %w", number, err)
	}
	for _, c := range each {
		ingress.add(c.Ingress)
		egress.add(c.Egress)
	}
	return ingress, egress, nil
}

func (c *PolicyCounts) add(n [packetPolicyOutcomePOLICY_OUTCOMES]uint64) {
	c.Allowed += n[PolicyAllowed]
	c.Denied += n[PolicyDenied]
	c.Unknown += n[PolicyUnknown]
	c.Full += n[PolicyFull]
}

// A PolicyEvent is a packet that was dropped, or a connection that began by a PolicyInterval with Log.
type PolicyEvent struct {
	Time    time.Duration // on the clock of Clock
	Outcome PolicyOutcome
	// Ingress is the direction that was judged. An answer of the pod may be dropped because its peer may not ask.
	Ingress  bool
	Protocol uint8
	// Pod and Peer have the ports that packets have on the pod's device, and the id of ICMP's echo. Peer's address is that which
	// policy has judged: that of a Service's backend, or that of the client that the node's address stands for.
	Pod, Peer netip.AddrPort
	// Point is what was judged, see PolicyInterval.
	Point  uint32
	Number uint16 // of the pod
	// Set and Class are those that the verdict was about, and Generation that of the maps.
	Set, Class uint64
	Generation uint32
	// Suppressed counts events of the pod that were not sent, of all time: there are 10 a second at most.
	Suppressed uint64
}

// PolicyEvents reads the events of policy: each goes to one reader only. Read may be called by one goroutine at a time.
type PolicyEvents struct {
	reader *ringbuf.Reader
	record ringbuf.Record
	once   sync.Once
}

// Events opens the events. The caller closes them.
func (p *Policy) Events() (*PolicyEvents, error) {
	r, err := ringbuf.NewReader(p.maps.Events)
	if err != nil {
		return nil, fmt.Errorf("read policy events: %w", err)
	}
	return &PolicyEvents{reader: r}, nil
}

// Read waits for an event. The error is that of ctx once it is done, and os.ErrClosed after Close.
func (e *PolicyEvents) Read(ctx context.Context) (PolicyEvent, error) {
	// A deadline does not end a read that waits: setting it waits for the read.
	stop := context.AfterFunc(ctx, func() { _ = e.reader.Flush() }) // fails when closed, which ends reads by itself
	defer stop()
	for {
		if err := ctx.Err(); err != nil {
			return PolicyEvent{}, err
		}
		err := e.reader.ReadInto(&e.record)
		if err == nil {
			break
		}
		if !errors.Is(err, ringbuf.ErrFlushed) { // by this context or by an earlier one
			return PolicyEvent{}, fmt.Errorf("read policy events: %w", err)
		}
	}
	var v packetPolicyEvent
	if err := binary.Read(bytes.NewReader(e.record.RawSample), binary.NativeEndian, &v); err != nil {
		return PolicyEvent{}, fmt.Errorf("read policy events: %w", err)
	}
	return PolicyEvent{
		Time: time.Duration(v.Time), Outcome: PolicyOutcome(v.Outcome), Ingress: v.Ingress != 0, Protocol: uint8(v.Point >> 16),
		Pod: addrPort(v.Pod, v.PodPort), Peer: addrPort(v.Peer, v.PeerPort), Point: v.Point, Number: v.Number,
		Set: v.Set, Class: v.Class, Generation: v.Generation, Suppressed: v.Suppressed,
	}, nil
}

// Close ends a Read that waits. It may be called twice.
func (e *PolicyEvents) Close() (err error) {
	e.once.Do(func() { err = e.reader.Close() })
	return err
}
