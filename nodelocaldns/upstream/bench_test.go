package upstream

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"
)

// BenchmarkMiss is what a question costs beside a bare exchange with the same server over the same transport: its figure
// us-over-rtt is the difference of the medians.
func BenchmarkMiss(b *testing.B) {
	for name, transport := range map[string]Transport{"UDP": UDPFirst, "TCP": TCP} {
		b.Run(name, func(b *testing.B) {
			s := serve(b, ok)
			u := open(b, Config{Targets: []Target{s.target(transport)}})
			bare := bareExchange(b, s, transport)
			for i := range 200 {
				bare()
				mustAsk(b, u, fmt.Sprintf("warm%d.example.", i))
			}
			var rtt, miss []time.Duration
			for b.Loop() {
				start := time.Now()
				bare()
				middle := time.Now()
				mustAsk(b, u, fmt.Sprintf("n%d.example.", len(miss)))
				rtt, miss = append(rtt, middle.Sub(start)), append(miss, time.Since(middle))
			}
			slices.Sort(rtt)
			slices.Sort(miss)
			us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
			b.ReportMetric(us(rtt[len(rtt)/2]), "us-rtt-p50")
			b.ReportMetric(us(miss[len(miss)/2]), "us-miss-p50")
			b.ReportMetric(us(miss[len(miss)*99/100]), "us-miss-p99")
			b.ReportMetric(us(miss[len(miss)/2]-rtt[len(rtt)/2]), "us-over-rtt")
		})
	}
}

// bareExchange asks over one connection, and does nothing else.
func bareExchange(b *testing.B, s *server, t Transport) func() {
	b.Helper()
	network := map[Transport]string{UDPFirst: "udp", TCP: "tcp"}[t]
	conn, err := net.Dial(network, s.addr.String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	query := packed(question("bare.example."))
	if t == TCP {
		query = append([]byte{byte(len(query) >> 8), byte(len(query))}, query...)
	}
	buffer := make([]byte, 4096)
	return func() {
		if _, err := conn.Write(query); err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Read(buffer); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkThroughput is misses of many clients at once, over pipelined TCP.
func BenchmarkThroughput(b *testing.B) {
	s := serve(b, ok)
	u := open(b, Config{Targets: []Target{s.target(TCP)}, NoHedge: true})
	b.SetParallelism(64)
	b.ReportAllocs()
	var n = make(chan int, 1)
	n <- 0
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := <-n
			n <- i + 1
			mustAsk(b, u, fmt.Sprintf("n%d.example.", i))
		}
	})
}
