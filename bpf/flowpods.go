package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
)

// forgetLater makes the next sweep forget the connections of a pod that is no more.
func (f *Flows) forgetLater(a netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone[words(a)] = true
}

// forgetBefore forgets the connections of pods that had the addresses before, unless a sweep has done so since they were
// deleted. It reads all flows, but only for an address that is used again within seconds.
func (f *Flows) forgetBefore(addrs []netip.Addr) error {
	if !f.anyGone(addrs) {
		return nil
	}
	f.sweepMu.Lock()
	defer f.sweepMu.Unlock()
	if !f.anyGone(addrs) {
		return nil
	}
	j := f.newJudge()
	err := f.each(func(k packetFlowKey, v packetFlow) error {
		if !j.ofGone(k, v) {
			return nil
		}
		_, err := f.sweep(0, k, j)
		return err
	})
	if err == nil {
		j.done()
	}
	return err
}

func (f *Flows) anyGone(addrs []netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range addrs {
		if f.gone[words(a)] {
			return true
		}
	}
	return false
}

// A judge finds, in one sweep, connections whose pod is gone or has another link now.
type judge struct {
	f      *Flows
	gone   map[[4]uint32]bool
	links  map[[4]uint32]uint32 // of pods, as they were when first asked for; 0: no pod
	remote map[uint32]bool      // links to backends that are no pods of this node
}

func (f *Flows) newJudge() *judge {
	f.mu.Lock()
	defer f.mu.Unlock()
	j := &judge{f: f, gone: map[[4]uint32]bool{}, links: map[[4]uint32]uint32{}, remote: map[uint32]bool{}}
	for a := range f.gone {
		j.gone[a] = true
	}
	return j
}

// done is called when all flows have been judged. No address of j.gone was put meanwhile: Put waits for the sweep.
func (j *judge) done() {
	j.f.mu.Lock()
	defer j.f.mu.Unlock()
	for a := range j.gone {
		delete(j.f.gone, a)
	}
}

// backend is the address of the side that answers.
func backend(k packetFlowKey, v packetFlow) [4]uint32 {
	if isReply(v) {
		return k.Saddr
	}
	return v.Daddr
}

func isReply(v packetFlow) bool { return v.Flags&uint32(packetFlowFlagsFLOW_REPLY) != 0 }

// ofPod says that the client is a pod of this node.
func ofPod(v packetFlow) bool { return v.Flags&uint32(packetFlowFlagsFLOW_POD) != 0 }

// client is the address of the side that began.
func client(k packetFlowKey, v packetFlow) [4]uint32 {
	if isReply(v) {
		return v.Daddr
	}
	return k.Saddr
}

// ofGone says that one of the sides is a pod that is no more.
func (j *judge) ofGone(k packetFlowKey, v packetFlow) bool {
	return j.gone[backend(k, v)] || ofPod(v) && j.gone[client(k, v)]
}

// receiver is the pod that packets of the entry go to by their link: none if they go nowhere by a link of their own, or
// to a client outside.
func receiver(v packetFlow) (pod [4]uint32, ok bool) {
	if v.Link == 0 || isReply(v) && !ofPod(v) {
		return pod, false
	}
	return v.Daddr, true
}

// suspects says cheaply whether lost is to be asked.
func (j *judge) suspects(k packetFlowKey, v packetFlow) (bool, error) {
	if j.ofGone(k, v) {
		return true, nil
	}
	pod, ok := receiver(v)
	if !ok || !ofPod(v) && j.remote[v.Link] {
		return false, nil
	}
	link, known := j.links[pod]
	if !known {
		var err error
		if link, err = j.f.podLink(pod); err != nil {
			return false, err
		}
		j.links[pod] = link
	}
	return link != v.Link, nil
}

// lost judges a connection by both entries. Packets of a client outside to other nodes leave by the link that the client
// came by; those to a pod do not.
func (j *judge) lost(k packetFlowKey, v, other packetFlow) (bool, error) {
	if j.ofGone(k, v) {
		return true, nil
	}
	pod, ok := receiver(v)
	if !ok {
		return false, nil
	}
	if !ofPod(v) && other.Link == v.Link {
		j.remote[v.Link] = true
		return false, nil
	}
	link, err := j.f.podLink(pod)
	return err == nil && link != v.Link, err
}

func (f *Flows) podLink(addr [4]uint32) (uint32, error) {
	var pod packetPodAddress
	err := f.pods.Lookup(packetAddress{Addr: addr}, &pod)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look up the pod of a flow: %w", err)
	}
	return pod.Link, nil
}

// Sweep forgets connections that have ended, were idle for too long, or whose pod is gone. It is to be called every few
// seconds with now from Clock.
func (f *Flows) Sweep(now time.Duration) (FlowStats, error) {
	f.sweepMu.Lock()
	defer f.sweepMu.Unlock()
	s := FlowStats{Max: int(f.flows.MaxEntries())}
	j := f.newJudge()
	err := f.each(func(k packetFlowKey, v packetFlow) error {
		s.Flows++
		suspect, err := j.suspects(k, v)
		if err != nil || !suspect && idle(now, v.LastSeen) < flowShortest {
			return err
		}
		n, err := f.sweep(now, k, j)
		s.Swept += n
		return err
	})
	if err == nil {
		j.done()
	}
	s.Flows = max(0, s.Flows-s.Swept)
	return s, errors.Join(err, f.readCounts(&s))
}
