package nodelocaldns_test

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// stockFile is NodeLocal DNSCache's for names outside the cluster (kubernetes, cluster/addons/dns/nodelocaldns).
const stockFile = ".:%d {\n\tbind 127.0.0.1\n\terrors\n\tcache 30\n\tforward . %s\n\tprometheus 127.0.0.1:0\n}\n"

// BenchmarkServerMiss is what a name takes that nobody has asked for, by the chain of a node (with who knows pods, and who gives
// answers to the kernel), and by that of NodeLocal DNSCache: medians in microseconds, beside the upstream itself. They take
// turns, so that all have the same machine.
func BenchmarkServerMiss(b *testing.B) {
	up := startUpstream(b)
	target := startTarget(b)
	at := freeAddr(b)
	stock := run(b, fmt.Appendf(nil, stockFile, at.Port(), up.addr), at)
	if err := stock.outcome(); err != nil {
		b.Fatal(err)
	}
	asked := []string{up.addr, target.addr, at.String()}
	took := make([][]time.Duration, len(asked))
	var conns []net.Conn
	for _, addr := range asked {
		c, err := net.Dial("udp", addr)
		if err != nil {
			b.Fatal(err)
		}
		conns = append(conns, c)
	}
	buffer := make([]byte, dns.MaxMsgSize)
	n := 0
	for b.Loop() {
		for i, c := range conns {
			n++
			q := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.com.", n), dns.TypeA)
			wire, err := q.Pack()
			if err != nil {
				b.Fatal(err)
			}
			start := time.Now()
			if _, err := c.Write(wire); err != nil {
				b.Fatal(err)
			}
			if _, err := c.Read(buffer); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], time.Since(start))
		}
	}
	var medians []float64
	for _, t := range took {
		slices.Sort(t)
		medians = append(medians, float64(t[len(t)/2])/float64(time.Microsecond))
	}
	b.ReportMetric(medians[1]-medians[0], "us-node")
	b.ReportMetric(medians[2]-medians[0], "us-stock")
	b.ReportMetric(medians[0], "us-upstream")
}
