package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// sourceRanges is who may use the load balancers' addresses of each record, in the kernel and as the kernel has it. Its
// user holds a lock.
type sourceRanges struct {
	kernel *ebpf.Map
	have   map[uint32][]netip.Prefix
}

// adopt reads what an earlier agent left.
func (r *sourceRanges) adopt() error {
	r.have = map[uint32][]netip.Prefix{}
	var (
		key   sockSourceRange
		value uint8
	)
	it := r.kernel.Iterate()
	for it.Next(&key, &value) {
		addr, bits := address(key.Addr), int(key.PrefixBits)-32
		if addr.Is4() {
			bits -= 96
		}
		r.have[key.Record] = append(r.have[key.Record], netip.PrefixFrom(addr, bits))
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read source ranges: %w", err)
	}
	return nil
}

// of returns the ranges of a record, sorted.
func (r *sourceRanges) of(record uint32) []netip.Prefix {
	return slices.SortedFunc(slices.Values(r.have[record]), netip.Prefix.Compare)
}

// add admits more to a record. On error nothing has changed.
func (r *sourceRanges) add(record uint32, ranges []netip.Prefix) error {
	before := len(r.have[record])
	for _, p := range ranges {
		p = p.Masked()
		if slices.Contains(r.have[record], p) {
			continue
		}
		err := r.kernel.Update(rangeKey(record, p), uint8(1), ebpf.UpdateAny)
		if err != nil {
			added := r.have[record][before:]
			return errors.Join(fmt.Errorf("put source range %s: %w", p, full(err, r.kernel)), r.keep(record, without(r.have[record], added)))
		}
		r.have[record] = append(r.have[record], p)
	}
	return nil
}

// keep leaves a record the given ones of its ranges. What could not be removed is tried again with the next call.
func (r *sourceRanges) keep(record uint32, ranges []netip.Prefix) error {
	var errs []error
	r.have[record] = slices.DeleteFunc(r.have[record], func(p netip.Prefix) bool {
		if slices.ContainsFunc(ranges, func(keep netip.Prefix) bool { return keep.Masked() == p }) {
			return false
		}
		if err := ignoreMissing(r.kernel.Delete(rangeKey(record, p))); err != nil {
			errs = append(errs, fmt.Errorf("delete source range %s: %w", p, err))
			return false
		}
		return true
	})
	if len(r.have[record]) == 0 {
		delete(r.have, record)
	}
	return errors.Join(errs...)
}

// others says whether a record has any but the given ones.
func (r *sourceRanges) others(record uint32, ranges []netip.Prefix) bool {
	return slices.ContainsFunc(r.have[record], func(p netip.Prefix) bool {
		return !slices.ContainsFunc(ranges, func(keep netip.Prefix) bool { return keep.Masked() == p })
	})
}

func without(all, some []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(all), func(p netip.Prefix) bool { return slices.Contains(some, p) })
}

func rangeKey(record uint32, p netip.Prefix) sockSourceRange {
	bits := 32 + p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return sockSourceRange{PrefixBits: uint32(bits), Record: record, Addr: words(p.Addr())}
}
