package bpf

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// SetScope changes the Scope of the pod that has the addresses, and nothing else of it. An address that no pod has is no
// error.
func (p *Pods) SetScope(addrs []netip.Addr, scope uint32) error {
	p.numbersMu.Lock()
	defer p.numbersMu.Unlock()
	for _, a := range addrs {
		key := sockAddress{Addr: words(a)}
		var value sockPodAddress
		err := p.byAddress.Lookup(key, &value)
		if err == nil {
			value.Scope = scope
			err = p.byAddress.Update(key, value, ebpf.UpdateExist)
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("set the scope of pod %s: %w", a, err)
		}
	}
	return nil
}

// LastScope returns the largest Scope that a pod has, 0 if none has one.
func (p *Pods) LastScope() (uint32, error) {
	var (
		key   sockAddress
		value sockPodAddress
		last  uint32
	)
	all := p.byAddress.Iterate()
	for all.Next(&key, &value) {
		last = max(last, value.Scope)
	}
	if err := all.Err(); err != nil {
		return 0, fmt.Errorf("list pods: %w", err)
	}
	return last, nil
}
