package bpf

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// PutPeer gives an address a class, perhaps 0, which it has instead of that of a prefix. The error is ErrFull.
func (p *Policy) PutPeer(addr netip.Addr, class uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := packetAddress{Addr: words(addr)}
	if err := put(p.maps.Peers, key, packetPolicyPeer{Class: class, Echo: fold(key.Addr[:])}, &p.peers); err != nil {
		return fmt.Errorf("put peer %s: %w", addr, err)
	}
	return nil
}

// DeletePeer takes the address's class away; it is no error if it has none.
func (p *Policy) DeletePeer(addr netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := remove(p.maps.Peers, packetAddress{Addr: words(addr)}, &p.peers); err != nil {
		return fmt.Errorf("delete peer %s: %w", addr, err)
	}
	return nil
}

// PutCIDR gives the addresses of a prefix a class, but for those of longer prefixes and those that have their own. Bits of the host
// are ignored, and an IPv4 prefix contains IPv4 addresses only. The error is ErrFull.
func (p *Policy) PutCIDR(prefix netip.Prefix, class uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := networkKey(prefix)
	value := packetPolicyCidr{Class: class, PrefixBits: key.PrefixBits, Echo: fold(key.Addr[:])}
	if err := put(p.maps.CIDRs, key, value, &p.cidrs); err != nil {
		return fmt.Errorf("put CIDR %s: %w", prefix, err)
	}
	return nil
}

// DeleteCIDR takes the prefix's class away; it is no error if it has none.
func (p *Policy) DeleteCIDR(prefix netip.Prefix) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := remove(p.maps.CIDRs, networkKey(prefix), &p.cidrs); err != nil {
		return fmt.Errorf("delete CIDR %s: %w", prefix, err)
	}
	return nil
}

// Class is that of the address as programs find it: its own, or that of the longest prefix, or 0.
func (p *Policy) Class(addr netip.Addr) (uint64, error) {
	var peer packetPolicyPeer
	err := p.maps.Peers.Lookup(packetAddress{Addr: words(addr)}, &peer)
	if err == nil {
		return peer.Class, nil
	}
	var cidr packetPolicyCidr
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = p.maps.CIDRs.Lookup(packetNetwork{PrefixBits: 128, Addr: words(addr)}, &cidr)
	}
	if err := ignoreMissing(err); err != nil {
		return 0, fmt.Errorf("class of %s: %w", addr, err)
	}
	if addr.Unmap().Is4() && cidr.PrefixBits < 96 {
		return 0, nil // of an IPv6 prefix
	}
	return cidr.Class, nil
}

// networkKey is a prefix as maps have it: IPv4 in ::ffff:0:0/96.
func networkKey(prefix netip.Prefix) packetNetwork {
	bits := uint32(prefix.Bits())
	if prefix.Addr().Is4() {
		bits += 96
	}
	return packetNetwork{PrefixBits: bits, Addr: words(prefix.Masked().Addr())}
}

// networkPrefix is the inverse of networkKey.
func networkPrefix(k packetNetwork) netip.Prefix {
	addr, bits := address(k.Addr), int(k.PrefixBits)
	if addr.Is4() {
		bits -= 96
	}
	return netip.PrefixFrom(addr, bits)
}

// put adds an element, or replaces it, and counts what is new.
func put(m *ebpf.Map, key, value any, n *int) error {
	err := m.Update(key, value, ebpf.UpdateNoExist)
	if errors.Is(err, ebpf.ErrKeyExist) {
		return m.Update(key, value, ebpf.UpdateAny)
	}
	if err != nil {
		return full(err, m)
	}
	*n++
	return nil
}

// remove deletes an element if there is one, and counts it.
func remove(m *ebpf.Map, key any, n *int) error {
	err := m.Delete(key)
	if err == nil {
		*n--
	}
	return ignoreMissing(err)
}

// batchEntries is how many elements of a map one system call reads.
const batchEntries = 4096

// eachBatch visits the elements of a hash, which may be changed meanwhile: each that stays is seen once, or, if the map is changed
// much, twice.
func eachBatch[K, V any](m *ebpf.Map, visit func(K, V) error) error {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]K, batchEntries), make([]V, batchEntries)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return err
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
