package cni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	"github.com/nearpath/nearpath/internal/hostnet"
)

// wholeENIs are as many as there are.
const wholeENIs = 2

// mac is that of an ENI; number 0 is shared.
func mac(number int) string { return fmt.Sprintf("00:16:3e:00:00:%02x", number) }

// wholeLease is the lease of an ENI that is not shared.
func wholeLease(number int) Lease {
	return Lease{
		Addrs: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.9.0.%d", 100+number)), netip.MustParseAddr(fmt.Sprintf("fd09::%x", 100+number))},
		Slot:  1 + number, MAC: mac(number), Exclusive: true,
	}
}

// fakeAddresses leases 10.9.0.10 and up on slot 1, and whole ENIs, and remembers what Release was asked.
type fakeAddresses struct {
	mu       sync.Mutex // guards what follows
	leases   map[Key]Leased
	next     netip.Addr
	dual     bool // lease IPv6 addresses, too: fd09:: and the last byte
	mac      string
	nets     []hostnet.Net
	released []Key
	fail     error
	gate     map[string]chan struct{} // by container: Acquire waits until it is closed
	asked    chan string              // the containers that wait, if not nil
}

func newFakeAddresses() *fakeAddresses {
	return &fakeAddresses{leases: map[Key]Leased{}, next: netip.MustParseAddr("10.9.0.10")}
}

// lease says what is leased on.
func (f *fakeAddresses) lease(mac string, nets []hostnet.Net) { f.mac, f.nets = mac, nets }

func (f *fakeAddresses) Acquire(ctx context.Context, a Attachment, exclusive bool) (Lease, error) {
	f.mu.Lock()
	gate := f.gate[a.ContainerID]
	f.mu.Unlock()
	if gate != nil {
		f.asked <- a.ContainerID
		select {
		case <-gate:
		case <-ctx.Done():
			return Lease{}, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return Lease{}, f.fail
	}
	if l, ok := f.leases[a.Key]; ok {
		return l.Lease, nil
	}
	l, err := f.pick(exclusive)
	if err != nil {
		return Lease{}, err
	}
	l.Nets = f.nets
	if !f.dual {
		l.Addrs = l.Addrs[:1]
	}
	f.leases[a.Key] = Leased{a, l}
	return l, nil
}

// pick needs f.mu.
func (f *fakeAddresses) pick(exclusive bool) (Lease, error) {
	if !exclusive {
		low := f.next.As4()
		l := Lease{Addrs: []netip.Addr{f.next, netip.AddrFrom16([16]byte{0: 0xfd, 1: 9, 15: low[3]})}, Slot: 1, MAC: f.mac}
		f.next = f.next.Next()
		return l, nil
	}
	for number := 1; number <= wholeENIs; number++ {
		whole := wholeLease(number)
		if !slices.ContainsFunc(slices.Collect(maps.Values(f.leases)), func(l Leased) bool { return l.Lease.MAC == whole.MAC }) {
			return whole, nil
		}
	}
	return Lease{}, errors.New("no ENI is free")
}

func (f *fakeAddresses) Release(_ context.Context, k Key) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.released = append(f.released, k)
	delete(f.leases, k)
	return nil
}

func (f *fakeAddresses) Lookup(k Key) (Lease, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.leases[k]
	return l.Lease, ok
}

func (f *fakeAddresses) List() []Leased {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.leases))
}

// fakePods keeps entries by address.
type fakePods struct {
	mu      sync.Mutex // guards what follows
	entries map[netip.Addr]PodEntry
	fail    error
	route   func(e PodEntry, add bool) error // stands for programs; may be nil
}

func newFakePods() *fakePods { return &fakePods{entries: map[netip.Addr]PodEntry{}} }

func (f *fakePods) Add(_ context.Context, e PodEntry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	if len(e.Addrs) == 0 || e.NetNSCookie == 0 || e.Link == 0 || e.Slot == 0 || e.NetNS == "" || e.Datapath == "" {
		return fmt.Errorf("entry is not whole: %+v", e)
	}
	if (e.ENI != 0) != (e.Datapath == Exclusive) || (e.Side != 0) != (e.Datapath == Exclusive) {
		return fmt.Errorf("entry has indices of another datapath: %+v", e)
	}
	if f.route != nil {
		if err := f.route(e, true); err != nil {
			return err
		}
	}
	for _, addr := range e.Addrs {
		f.entries[addr] = e
	}
	return nil
}

func (f *fakePods) Remove(_ context.Context, e PodEntry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(e.Addrs) == 0 && e.NetNSCookie == 0 {
		return errors.New("entry names nobody")
	}
	for _, addr := range e.Addrs {
		if have, ok := f.entries[addr]; ok && f.route != nil {
			if err := f.route(have, false); err != nil {
				return err
			}
		}
		delete(f.entries, addr)
	}
	return nil
}

func (f *fakePods) Has(_ context.Context, e PodEntry) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, ok := f.entries[e.Addrs[0]]
	have.NetNS = e.NetNS // a path is as good as another
	return ok && reflect.DeepEqual(have, e), nil
}

func (f *fakePods) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.entries)
}

func (f *fakePods) entry(addr netip.Addr) PodEntry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.entries[addr]
}

// fakeShaper remembers the last call of each method for each container.
type fakeShaper struct {
	mu     sync.Mutex // guards what follows
	shaped map[string]Shaped
	fail   error
}

func (f *fakeShaper) Shape(_ context.Context, pod Shaped) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	if f.shaped == nil {
		f.shaped = map[string]Shaped{}
	}
	f.shaped[pod.Key.ContainerID] = pod
	return nil
}

func (f *fakeShaper) Verify(_ context.Context, pod Shaped) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if have := f.shaped[pod.Key.ContainerID].Limits; have != pod.Limits {
		return fmt.Errorf("limits are %v", have)
	}
	return nil
}

func (f *fakeShaper) of(container string) Shaped {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shaped[container]
}
