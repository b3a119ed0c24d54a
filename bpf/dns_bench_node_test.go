//go:build node

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// BenchmarkAnswers reports, for questions that differ in what they cost, how long the program of a pod's link takes, as the kernel
// counts it (BPF_ENABLE_STATS), and how long the pod waits for a reply, with one question at a time: the median and the
// 99th percentile.
func BenchmarkAnswers(b *testing.B) {
	w := newWorld(b, node(b))
	addresses := []netip.Addr{netip.MustParseAddr(dnsServers[0]), netip.MustParseAddr(dnsServers[1])}
	publishAskings(b, w.Answers)
	many := packed(b, addressRecords("many.shop.svc.cluster.local.", 16, false)...)
	err := errors.Join(w.Pods.Put(Pod{Addrs: addrs(podAddrs), Link: w.podLink, Parent: w.podLink, Slot: 1}), w.Answers.SetServers(addresses), w.Answers.PutName("many.shop.svc.cluster.local", NameAddresses),
		w.Answers.Put(AnswerKey{Name: "many.shop.svc.cluster.local", Type: dns.TypeA}, many, AnswerLife{Aged: true}))
	if err != nil {
		b.Fatal(err)
	}
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	for _, server := range addresses {
		for _, q := range []struct {
			what, name string
			rrtype     uint16
			edns       bool
		}{
			{"A", "cart.shop.svc.cluster.local.", dns.TypeA, false},
			{"A with EDNS", "cart.shop.svc.cluster.local.", dns.TypeA, true},
			{"NODATA", "cart.shop.svc.cluster.local.", dns.TypeAAAA, false},
			{"NXDOMAIN", "nobody.shop.svc.cluster.local.", dns.TypeA, false},
			{"NXDOMAIN of a search", "www.example.com.shop.svc.cluster.local.", dns.TypeA, false},
			{"16 A that age", "many.shop.svc.cluster.local.", dns.TypeA, false},
			{"TXT of a long name", longName, dns.TypeTXT, true},
		} {
			m := new(dns.Msg).SetQuestion(q.name, q.rrtype)
			if q.edns {
				m.SetEdns0(1232, false)
			}
			query, err := m.Pack()
			if err != nil {
				b.Fatal(err)
			}
			b.Run(fmt.Sprintf("%d-bit/%s", server.BitLen(), q.what), func(b *testing.B) { w.benchQuery(b, server, query) })
		}
	}
}

func (w *world) benchQuery(b *testing.B, server netip.Addr, query []byte) {
	b.Helper()
	if err := w.Answers.Beat(); err != nil {
		b.Fatal(err)
	}
	before, err := w.packet.FromPod.Stats()
	if err != nil {
		b.Fatal(err)
	}
	waits := make([]time.Duration, b.N)
	w.pod.do(b, func() error { return askInTurn(server, query, waits, b.ResetTimer) })
	after, err := w.packet.FromPod.Stats()
	if err != nil {
		b.Fatal(err)
	}
	slices.Sort(waits)
	b.ReportMetric(float64(after.Runtime-before.Runtime)/float64(after.RunCount-before.RunCount), "ns/program")
	b.ReportMetric(float64(waits[len(waits)/2]), "ns/p50")
	b.ReportMetric(float64(waits[len(waits)*99/100]), "ns/p99")
}

// askInTurn sends the query as often as there are waits, each when the one before has been answered.
func askInTurn(server netip.Addr, query []byte, waits []time.Duration, begin func()) error {
	family := unix.AF_INET6
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: 53, Addr: server.As16()}
	if server.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: 53, Addr: server.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Connect(fd, to), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})); err != nil {
		return err
	}
	reply := make([]byte, 1500)
	begin()
	for i := range waits {
		start := time.Now()
		if _, err := unix.Write(fd, query); err != nil {
			return err
		}
		if _, err := unix.Read(fd, reply); err != nil {
			return err
		}
		waits[i] = time.Since(start)
	}
	return nil
}
