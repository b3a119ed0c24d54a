package main

import (
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/bpf"
)

// kernelDNS counts what became of pods' questions in the kernel. The kernel counts by pod and forgets those that leave: what
// they asked since the metrics were read last is not counted.
type kernelDNS struct {
	counts func() (map[netip.Addr]bpf.DNSCounts, error)
	desc   *prometheus.Desc

	mu sync.Mutex // guards the rest
	// last is what was read last, and before that what was read before it: a pod that is put anew while the map is read may be
	// missed once.
	last, before map[netip.Addr]bpf.DNSCounts
	total        bpf.DNSCounts
}

func newKernelDNS(counts func() (map[netip.Addr]bpf.DNSCounts, error)) *kernelDNS {
	return &kernelDNS{
		counts: counts, desc: prometheus.NewDesc("nearpath_nodelocaldns_kernel_questions_total",
			"DNS questions of pods to the node's DNS over UDP, by what the kernel did: hit and negative it answered, the others went on.", []string{"outcome"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (k *kernelDNS) Describe(ch chan<- *prometheus.Desc) { ch <- k.desc }

// Collect implements prometheus.Collector.
func (k *kernelDNS) Collect(ch chan<- prometheus.Metric) {
	now, err := k.counts()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(k.desc, err)
		return
	}
	total := k.add(now)
	for outcome, n := range map[bpf.DNSOutcome]uint64{
		bpf.DNSHit: total.Hit, bpf.DNSNegative: total.Negative, bpf.DNSMiss: total.Miss, bpf.DNSPunt: total.Punt, bpf.DNSExpired: total.Expired,
	} {
		ch <- prometheus.MustNewConstMetric(k.desc, prometheus.CounterValue, float64(n), outcome.String())
	}
}

// add counts what each pod has asked since the last time. A pod that has asked less is another one.
func (k *kernelDNS) add(now map[netip.Addr]bpf.DNSCounts) bpf.DNSCounts {
	k.mu.Lock()
	defer k.mu.Unlock()
	for addr, c := range now {
		was, ok := k.last[addr]
		if !ok {
			was = k.before[addr]
		}
		if c.Hit < was.Hit || c.Negative < was.Negative || c.Miss < was.Miss || c.Punt < was.Punt || c.Expired < was.Expired {
			was = bpf.DNSCounts{}
		}
		k.total.Hit += c.Hit - was.Hit
		k.total.Negative += c.Negative - was.Negative
		k.total.Miss += c.Miss - was.Miss
		k.total.Punt += c.Punt - was.Punt
		k.total.Expired += c.Expired - was.Expired
	}
	k.last, k.before = now, k.last
	return k.total
}
