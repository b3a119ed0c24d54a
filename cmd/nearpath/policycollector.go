package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
)

// A policyCollector tells what the kernel counts of policies, as of the moment that it is asked.
type policyCollector struct {
	pods   func() []localPod
	kernel policyKernel
}

var (
	policyPacketsDesc = prometheus.NewDesc("nearpath_policy_packets_total",
		"Packets of pods that policy has judged: those that begin what was allowed, and all that were dropped, as denied, as impossible to judge (unknown) or for lack of room (full).",
		[]string{"namespace", "pod", "direction", "outcome"}, nil)
	policyEntriesDesc    = prometheus.NewDesc("nearpath_policy_map_entries", "Entries of the kernel's tables of policies.", []string{"map"}, nil)
	policyMaxDesc        = prometheus.NewDesc("nearpath_policy_map_max_entries", "Entries that the kernel's tables of policies hold.", []string{"map"}, nil)
	policyGenerationDesc = prometheus.NewDesc("nearpath_policy_generation", "Changes of what the kernel enforces.", nil, nil)
)

func (c *policyCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{policyPacketsDesc, policyEntriesDesc, policyMaxDesc, policyGenerationDesc} {
		to <- d
	}
}

func (c *policyCollector) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(policyGenerationDesc, prometheus.GaugeValue, float64(c.kernel.Generation()))
	for _, use := range policyUse(c.kernel) {
		to <- prometheus.MustNewConstMetric(policyEntriesDesc, prometheus.GaugeValue, float64(use.Entries), use.Map)
		to <- prometheus.MustNewConstMetric(policyMaxDesc, prometheus.GaugeValue, float64(use.Max), use.Map)
	}
	counts, err := countsByPod(c.pods(), c.kernel)
	if err != nil {
		to <- prometheus.NewInvalidMetric(policyPacketsDesc, err)
	}
	for name, n := range counts {
		collectPackets(to, name, ingressName, n[0])
		collectPackets(to, name, egressName, n[1])
	}
}

// countsByPod are the counts of ingress and egress. Sandboxes of one pod, as when it has just got another, are one.
func countsByPod(pods []localPod, kernel policyKernel) (map[cluster.Name][2]bpf.PolicyCounts, error) {
	counts := map[cluster.Name][2]bpf.PolicyCounts{}
	for _, p := range pods {
		in, out, err := kernel.Counts(p.Number)
		if err != nil {
			return nil, err
		}
		have := counts[p.name()]
		counts[p.name()] = [2]bpf.PolicyCounts{sumOfCounts(have[0], in), sumOfCounts(have[1], out)}
	}
	return counts, nil
}

func sumOfCounts(a, b bpf.PolicyCounts) bpf.PolicyCounts {
	return bpf.PolicyCounts{Allowed: a.Allowed + b.Allowed, Denied: a.Denied + b.Denied, Unknown: a.Unknown + b.Unknown, Full: a.Full + b.Full}
}

// collectPackets leaves out what has not happened: most pods are not isolated.
func collectPackets(to chan<- prometheus.Metric, pod cluster.Name, direction string, n bpf.PolicyCounts) {
	for _, one := range []struct {
		outcome bpf.PolicyOutcome
		n       uint64
	}{{bpf.PolicyAllowed, n.Allowed}, {bpf.PolicyDenied, n.Denied}, {bpf.PolicyUnknown, n.Unknown}, {bpf.PolicyFull, n.Full}} {
		if one.n > 0 {
			to <- prometheus.MustNewConstMetric(policyPacketsDesc, prometheus.CounterValue, float64(one.n), pod.Namespace, pod.Name, direction, one.outcome.String())
		}
	}
}
