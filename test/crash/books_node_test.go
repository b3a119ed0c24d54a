//go:build node

package crash

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nearpath/nearpath/test/netlab"
)

// A pod is one sandbox with its network. A pod that is tried again has another sandbox under the same name.
type pod struct {
	name, container string
	sandbox         *netlab.Sandbox
	netns           *netlab.NetNS
	addr            netip.Addr
	result          json.RawMessage // of ADD
}

// books is what a container runtime knows: which pods have a network, and since when others do not. It judges every
// address that it is given.
type books struct {
	cooldown time.Duration

	mu     sync.Mutex // guards what follows
	live   map[string]*pod
	freed  map[netip.Addr]time.Time // when the last DEL for the address began
	faults []string
}

func newBooks(cooldown time.Duration) *books {
	return &books{cooldown: cooldown, live: map[string]*pod{}, freed: map[netip.Addr]time.Time{}}
}

// added books a pod whose ADD has succeeded.
func (b *books) added(p *pod) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, other := range b.live {
		if other.addr == p.addr {
			b.faults = append(b.faults, fmt.Sprintf("%s got %s, which %s has", p.container, p.addr, other.container))
		}
	}
	if at, ok := b.freed[p.addr]; ok && time.Since(at) < b.cooldown {
		b.faults = append(b.faults, fmt.Sprintf("%s got %s, which was released %s ago", p.container, p.addr, time.Since(at)))
	}
	b.live[p.container] = p
}

// deleting books a DEL that is about to be asked for.
func (b *books) deleting(p *pod) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.live, p.container)
	if p.addr.IsValid() {
		b.freed[p.addr] = time.Now()
	}
}

// mayGo says why the node must not give the address up, or nil.
func (b *books) mayGo(addr netip.Addr) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.live {
		if p.addr == addr {
			return fmt.Errorf("%s has it", p.container)
		}
	}
	if at, ok := b.freed[addr]; ok && time.Since(at) < b.cooldown {
		return fmt.Errorf("it was released %s ago", time.Since(at))
	}
	return nil
}

// pods lists the live ones, by name.
func (b *books) pods() []*pod {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.SortedFunc(maps.Values(b.live), func(x, y *pod) int { return strings.Compare(x.container, y.container) })
}

func (b *books) verdict() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.faults)
}
