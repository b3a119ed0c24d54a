//go:build node

package bpf

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// BenchmarkPacket reports what the programs cost a packet. A flow that rewrites a packet to what it is stands for a
// translation: the kernel gives the same packet to the program again and again.
func BenchmarkPacket(b *testing.B) {
	pins := b.TempDir()
	if err := unix.Mount("bpf", pins, "bpf", 0, ""); err != nil {
		b.Fatal(err)
	}
	defer unix.Unmount(pins, 0)
	d, err := Load(Config{PinDir: pins + "/nearpath"})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	for i, family := range []string{"v4", "v6"} {
		pod, client, elsewhere := at(podAddrs[i], 8080), at(clientAddrs[i], 40000), at(vpcAddrs[i], 53)
		networks := []HostNetwork{{netip.MustParsePrefix(everything[i]), WayNode}, {netip.MustParsePrefix([]string{"10.0.0.0/8", "fd00::/8"}[i]), WayENI}}
		err := errors.Join(d.SetNodeAddresses(addrs(nodeAddrs)), d.SetHostNetworks(networks),
			d.Pods.Put(Pod{Addrs: addrs(podAddrs), Link: 1, Side: 1, Slot: 1}))
		if err != nil {
			b.Fatal(err)
		}
		for name, c := range map[string]struct {
			program  *ebpf.Program
			from, to netip.AddrPort
			flow     bool
			proto    uint8
		}{
			"from_pod, no flow":      {d.packet.FromPod, pod, client, false, tcp},
			"from_pod, translated":   {d.packet.FromPod, pod, client, true, tcp},
			"from_outside, no flow":  {d.packet.FromOutside, client, at(nodeAddrs[i], 22), false, tcp},
			"from_outside, rewrites": {d.packet.FromOutside, client, at(nodeAddrs[i], 30080), true, tcp},
			"to_outside, no flow":    {d.packet.ToOutside, at(nodeAddrs[i], 22), client, false, tcp},

			"from_pod, datagram, no flow":     {d.packet.FromPod, pod, client, false, udp},
			"from_pod, datagram, translated":  {d.packet.FromPod, pod, client, true, udp},
			"from_outside, datagram, no flow": {d.packet.FromOutside, client, at(nodeAddrs[i], 22), false, udp},
			"to_outside, datagram, no flow":   {d.packet.ToOutside, at(nodeAddrs[i], 22), client, false, udp},
			"to_vpc, datagram, no flow":       {d.packet.ToVpc, pod, elsewhere, false, udp},
			"leave_pod, datagram, no flow":    {d.packet.LeavePod, pod, elsewhere, false, udp},
		} {
			b.Run(family+" "+name, func(b *testing.B) {
				s := segment{proto: c.proto, from: c.from, to: c.to, flags: ack, hops: 64, payload: make([]byte, 1000)}
				key := packetFlowKey{Saddr: words(s.from.Addr()), Daddr: words(s.to.Addr()), Sport: swap16(s.from.Port()), Dport: swap16(s.to.Port()), Proto: c.proto}
				if c.flow {
					v := packetFlow{Saddr: key.Saddr, Daddr: key.Daddr, Sport: key.Sport, Dport: key.Dport}
					v.Echo = fold(append(append(key.Saddr[:], key.Daddr[:]...), uint32(key.Sport)|uint32(key.Dport)<<16, uint32(c.proto)))
					if err := d.objs.Flows.Update(key, v, ebpf.UpdateAny); err != nil {
						b.Fatal(err)
					}
					defer d.objs.Flows.Delete(key)
				}
				_, took, err := c.program.Benchmark(s.frame(), b.N, b.ResetTimer)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
			})
		}
	}
}
