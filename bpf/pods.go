package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// maxSlot is POD_MARK_SLOT: what fits a packet's mark.
const maxSlot = 0xff

// A Pod is what the programs know of a pod of this node.
type Pod struct {
	Addrs []netip.Addr
	// NetNSCookie identifies the pod's network namespace (SO_NETNS_COOKIE) for as long as the machine is up; 0 where
	// the kernel does not tell: such a pod is known by its addresses only.
	NetNSCookie uint64
	// Link is the interface index, on the node, of the link that leads to the pod.
	Link int
	// Parent is the interface index, on the node, of what the pod's packets come by first: the ipvlan parent of a pod that has
	// a slave of it, else Link. What has the pod's address and comes by another is dropped. 0: not known.
	Parent int
	// Side is the interface index, in the pod's network namespace, of the link that leads to the node; 0 for a pod whose
	// only link does.
	Side int
	// Slot is that of the ENI that has the pod's addresses, 1 to 255: packets from Link are marked with it.
	Slot int
	// Scope is that of the pod's search list: it gets answers that were put under it. 0: none.
	Scope uint32
	// ByPackets leaves the pod's sockets alone: its connections to Services are translated packet by packet.
	ByPackets bool
	// Guarded refuses the pod's raw sockets what would let them pass programs of links in the pod's own network namespace.
	Guarded bool
	// Number is what Put gives the pod, among those of the node; 0: there are too many pods. Lookup returns it, and Put ignores it.
	Number uint16
}

// Pods are the pods of this node, by network namespace and by address. Methods are safe for concurrent use as long
// as no two of them name the same pod.
type Pods struct {
	byCookie, byAddress, counts *ebpf.Map
	flows                       *Flows
	tracked                     *Tracked
	policy                      *Policy
	numbersMu                   sync.Mutex // held while a pod gets its number
}

// Put adds a pod or replaces it. Connections of a pod that had one of its addresses before are forgotten first.
func (p *Pods) Put(pod Pod) error {
	if pod.Slot < 0 || pod.Slot > maxSlot {
		return fmt.Errorf("put pod %v: slot %d: at most %d", pod.Addrs, pod.Slot, maxSlot)
	}
	key := sockPodKey{NetnsCookie: pod.NetNSCookie}
	value := sockPodAddress{
		NetnsCookie: pod.NetNSCookie, Link: uint32(pod.Link), Side: uint32(pod.Side), Slot: uint16(pod.Slot), Parent: uint32(pod.Parent),
		Scope: pod.Scope,
	}
	if pod.NetNSCookie != 0 {
		if err := p.byCookie.Update(key, podValue(pod), ebpf.UpdateAny); err != nil {
			return fmt.Errorf("put pod %v: %w", pod.Addrs, full(err, p.byCookie))
		}
	}
	if err := errors.Join(p.flows.forgetBefore(pod.Addrs), p.tracked.forgetBefore(pod.Addrs)); err != nil {
		return fmt.Errorf("put pod %v: %w", pod.Addrs, err)
	}
	if err := p.putAddresses(pod.Addrs, value); err != nil {
		return fmt.Errorf("put pod %v: %w", pod.Addrs, full(err, p.byAddress))
	}
	return nil
}

func (p *Pods) putAddresses(addrs []netip.Addr, value sockPodAddress) (err error) {
	p.numbersMu.Lock()
	defer p.numbersMu.Unlock()
	if value.Number, err = p.number(addrs, value.NetnsCookie); err != nil {
		return err
	}
	if value.Parent == 0 || value.Parent == value.Link { // else it leads to other pods, too
		if err := p.policy.link(value.Link, value.Number); err != nil {
			return err
		}
	}
	for _, a := range addrs {
		key := sockAddress{Addr: words(a)}
		value.Echo = fold(key.Addr[:])
		if err := p.byAddress.Update(key, value, ebpf.UpdateAny); err != nil {
			return err
		}
	}
	return nil
}

// number returns the one that the pod has, or one that no other has and whose counts begin anew. 0: none is left, and the pod is
// not counted.
func (p *Pods) number(addrs []netip.Addr, cookie uint64) (uint16, error) {
	var key sockAddress
	var value sockPodAddress
	taken := make(map[uint16]bool)
	all := p.byAddress.Iterate()
	for all.Next(&key, &value) {
		if value.NetnsCookie == cookie && value.Number != 0 && slices.Contains(addrs, address(key.Addr)) {
			return value.Number, nil
		}
		taken[value.Number] = true
	}
	if err := all.Err(); err != nil {
		return 0, err
	}
	for n := uint16(1); uint32(n) < p.counts.MaxEntries(); n++ {
		if !taken[n] {
			none := make([]sockDnsCounts, ebpf.MustPossibleCPU())
			return n, errors.Join(p.counts.Update(uint32(n), none, ebpf.UpdateAny), p.policy.forgetNumber(n))
		}
	}
	return 0, nil
}

// numberOf is the number of the pod that has the address; 0: of none that is known.
func (p *Pods) numberOf(addr netip.Addr) (uint32, error) {
	var value sockPodAddress
	if err := ignoreMissing(p.byAddress.Lookup(sockAddress{Addr: words(addr)}, &value)); err != nil {
		return 0, fmt.Errorf("look up pod %s: %w", addr, err)
	}
	return uint32(value.Number), nil
}

// PutHost says which addresses sockets of the node use unless they are bound to others; the zero Addr means that there is
// none of a family. cookie is that of the node's network namespace.
func (p *Pods) PutHost(cookie uint64, addr4, addr6 netip.Addr) error {
	var host Pod
	for _, a := range []netip.Addr{addr4, addr6} {
		if a.IsValid() {
			host.Addrs = append(host.Addrs, a)
		}
	}
	if err := p.byCookie.Update(sockPodKey{NetnsCookie: cookie}, podValue(host), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("put the node's addresses %v: %w", host.Addrs, full(err, p.byCookie))
	}
	return nil
}

// podValue is what is known by the cookie: of several addresses of a family the first is the one that clients are known by.
func podValue(pod Pod) sockPod {
	var v sockPod
	for _, a := range pod.Addrs {
		switch {
		case a.Is4() && v.Addr4 == 0:
			v.Addr4 = words(a)[3]
		case a.Is6() && v.Addr6 == [4]uint32{}:
			v.Addr6 = words(a)
		}
	}
	if pod.ByPackets {
		v.Flags |= uint32(sockPodFlagsPOD_BY_PACKETS)
	}
	if pod.Guarded {
		v.Flags |= uint32(sockPodFlagsPOD_GUARDED)
	}
	return v
}

// Delete removes the pod that has the given addresses, and with it what is known by its cookie; it is no error if there is
// none. Its connections go with the next Sweep, or before another pod is Put at its address. Policy isolates it no more.
func (p *Pods) Delete(addrs []netip.Addr) error {
	p.numbersMu.Lock()
	defer p.numbersMu.Unlock()
	for _, a := range addrs {
		var value sockPodAddress
		addr := sockAddress{Addr: words(a)}
		err := p.byAddress.Lookup(addr, &value)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err == nil {
			err = errors.Join(p.policy.unlink(value.Link, value.Number), p.policy.forgetNumber(value.Number))
		}
		if err == nil {
			err = ignoreMissing(p.byCookie.Delete(sockPodKey{NetnsCookie: value.NetnsCookie}))
		}
		if err == nil {
			err = ignoreMissing(p.byAddress.Delete(addr))
		}
		p.flows.forgetLater(a)
		p.tracked.forgetLater(a)
		if err != nil {
			return fmt.Errorf("delete pod %s: %w", a, err)
		}
	}
	return nil
}

// Lookup finds the pod an address belongs to.
func (p *Pods) Lookup(addr netip.Addr) (Pod, bool, error) {
	var (
		value sockPodAddress
		pod   sockPod
	)
	err := p.byAddress.Lookup(sockAddress{Addr: words(addr)}, &value)
	if err == nil && value.NetnsCookie != 0 {
		err = p.byCookie.Lookup(sockPodKey{NetnsCookie: value.NetnsCookie}, &pod)
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Pod{}, false, nil
	}
	if err != nil {
		return Pod{}, false, fmt.Errorf("look up pod %s: %w", addr, err)
	}
	return Pod{
		Addrs: []netip.Addr{addr}, NetNSCookie: value.NetnsCookie,
		Link: int(value.Link), Side: int(value.Side), Slot: int(value.Slot), Parent: int(value.Parent),
		Scope: value.Scope, ByPackets: pod.Flags&uint32(sockPodFlagsPOD_BY_PACKETS) != 0, Guarded: pod.Flags&uint32(sockPodFlagsPOD_GUARDED) != 0,
		Number: value.Number,
	}, true, nil
}

func full(err error, m *ebpf.Map) error {
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("%w: at most %d entries fit", ErrFull, m.MaxEntries())
	}
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}
