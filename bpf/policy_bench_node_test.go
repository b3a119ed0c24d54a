//go:build node

package bpf

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// BenchmarkPolicy reports what policy costs a packet: compare with "off". A packet that begins a connection is timed by itself, so
// its figures are of a program that is not in any cache; the median is reported.
func BenchmarkPolicy(b *testing.B) {
	for _, mode := range []string{"off", "not isolated", "isolated"} {
		cfg := node(b)
		cfg.PolicyOff = mode == "off"
		l := newPolLab(b, cfg)
		for i, family := range []string{"v4", "v6"} {
			f := l.families[i]
			pod, peer := netip.AddrPortFrom(f.pod, 40000), netip.AddrPortFrom(f.peers[0], 443)
			l.forgetAll(b)
			if mode == "isolated" {
				l.putPeer(b, f.peers[0], 7)
				l.putVerdict(b, PolicyKey{1, 7}, PolicyInterval{Lo: tcp<<16 | 80, Hi: tcp<<16 | 80}, PolicyInterval{Lo: tcp<<16 | 443, Hi: tcp<<16 | 443})
				l.putSets(b, PolicySets{1, 1})
			}
			if _, err := l.run(sends(tcp, pod, peer, syn)); err != nil {
				b.Fatal(err)
			}
			b.Run(family+" from_pod, established, "+mode, func(b *testing.B) {
				many(b, l.packet.FromPod, sends(tcp, pod, peer, ack).frame())
			})
			b.Run(family+" to_pod, established, "+mode, func(b *testing.B) {
				many(b, l.packet.ToPod, gets(tcp, pod, peer, ack).frame())
			})
			b.Run(family+" from_pod, first, "+mode, func(b *testing.B) {
				eachOnce(b, l.packet.FromPod, func(n int) []byte {
					if n%10000 == 0 { // the pod's quarter of the table is not to be full
						if err := l.Tracked.Forget(l.own); err != nil {
							b.Fatal(err)
						}
					}
					return sends(tcp, netip.AddrPortFrom(f.pod, uint16(n%10000)+1), peer, syn).frame()
				})
			})
		}
	}
}

func many(b *testing.B, p *ebpf.Program, frame []byte) {
	b.Helper()
	_, took, err := p.Benchmark(frame, b.N, b.ResetTimer)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
}

func eachOnce(b *testing.B, p *ebpf.Program, frame func(n int) []byte) {
	b.Helper()
	times := make([]time.Duration, b.N)
	for n := range b.N {
		_, took, err := p.Benchmark(frame(n), 1, nil)
		if err != nil {
			b.Fatal(err)
		}
		times[n] = took
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Nanoseconds()), "ns/packet")
}
