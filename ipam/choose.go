package ipam

import (
	"cmp"
	"slices"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A candidate is what the choice of an ENI for a lease looks at.
type candidate struct {
	addresses int // of IPv4, whatever their state
	pods      int
	queues    int
	slot      int
}

// prefer orders candidates, the best one first.
func (p ENIPolicy) prefer(a, b candidate) int {
	order := 0
	switch p {
	case MostIPs:
		order = cmp.Compare(b.addresses, a.addresses)
	case LeastIPs:
		order = cmp.Compare(a.addresses, b.addresses)
	default:
		// Pods per queue, without dividing.
		order = cmp.Compare(a.pods*max(b.queues, 1), b.pods*max(a.queues, 1))
	}
	return cmp.Or(order, cmp.Compare(a.slot, b.slot))
}

// ranked lists the usable ENIs of a purpose, the best one first.
func (l *ledger) ranked(use purpose, policy ENIPolicy) []*eni {
	candidates := map[*eni]candidate{}
	var enis []*eni
	for _, e := range l.enis {
		if e.Purpose == use && e.usable() {
			enis = append(enis, e)
			candidates[e] = candidate{slot: e.Slot, queues: l.queues(e)}
		}
	}
	for addr, a := range l.addrs {
		e := l.enis[a.ENI]
		c, ok := candidates[e]
		if !ok || aliyun.FamilyOf(addr) != aliyun.IPv4 {
			continue
		}
		c.addresses++
		if a.owned() {
			c.pods++
		}
		candidates[e] = c
	}
	slices.SortFunc(enis, func(a, b *eni) int { return policy.prefer(candidates[a], candidates[b]) })
	return enis
}

// queues of an ENI's device, as far as the cloud says.
func (l *ledger) queues(e *eni) int { return cmp.Or(e.Queues, l.limits.QueuesPerENI, 1) }
