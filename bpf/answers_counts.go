package bpf

import (
	"fmt"
	"net/netip"
)

// DNSCounts are what became of a pod's questions. Hit and Negative were answered by programs, the latter with that there is no
// such name or record. Miss were not entered, Expired were too long ago, and Punt are not for programs to answer.
type DNSCounts struct{ Hit, Negative, Miss, Punt, Expired uint64 }

// A DNSOutcome says what became of a question, see DNSCounts.
type DNSOutcome uint8

// What becomes of questions.
const (
	DNSHit      = DNSOutcome(packetDnsOutcomeDNS_HIT)
	DNSNegative = DNSOutcome(packetDnsOutcomeDNS_NEGATIVE)
	DNSMiss     = DNSOutcome(packetDnsOutcomeDNS_MISS)
	DNSPunt     = DNSOutcome(packetDnsOutcomeDNS_PUNT)
	DNSExpired  = DNSOutcome(packetDnsOutcomeDNS_EXPIRED)
)

// String is the name of the outcome in DNSCounts.
func (o DNSOutcome) String() string {
	names := [...]string{DNSHit: "hit", DNSNegative: "negative", DNSMiss: "miss", DNSPunt: "punt", DNSExpired: "expired"}
	if int(o) < len(names) {
		return names[o]
	}
	return fmt.Sprintf("outcome %d", uint8(o))
}

// Counts returns what became of the questions of each pod since it was put, by its first address. While pods come and go some
// may not be seen: ebpf.ErrIterationAborted, if that went on for too long.
func (a *Answers) Counts() (map[netip.Addr]DNSCounts, error) {
	first := map[uint16]netip.Addr{}
	var key sockAddress
	var pod sockPodAddress
	all := a.pods.Iterate()
	for all.Next(&key, &pod) {
		addr := address(key.Addr)
		if have, ok := first[pod.Number]; pod.Number != 0 && (!ok || addr.Less(have)) {
			first[pod.Number] = addr
		}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("look for pods: %w", err)
	}
	out := make(map[netip.Addr]DNSCounts, len(first))
	for number, addr := range first {
		var each []sockDnsCounts
		if err := a.counts.Lookup(uint32(number), &each); err != nil {
			return nil, fmt.Errorf("count the questions of %s: %w", addr, err)
		}
		var sum [5]uint64
		for _, c := range each {
			for i, n := range c.Count {
				sum[i] += n
			}
		}
		out[addr] = DNSCounts{Hit: sum[DNSHit], Negative: sum[DNSNegative], Miss: sum[DNSMiss], Punt: sum[DNSPunt], Expired: sum[DNSExpired]}
	}
	return out, nil
}
