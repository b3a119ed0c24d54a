package nodelocaldns_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// counted is the value of a counter of this process.
func counted(t *testing.T, name string) int {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return int(f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	t.Fatalf("nothing counts %s", name)
	return 0
}

// A thousand clients ask for the same at the listener, half of them over TCP, before the upstream says anything: it gets one
// question, beside those that are repeated because it is slow.
func TestServerAsksOnceForAThousand(t *testing.T) {
	const clients, atOnce = 1000, 50 // more at once would not fit into the listener's buffer
	const name = "hang.example.com."
	up := startUpstream(t)
	at := freeAddr(t)
	s := run(t, fmt.Appendf(nil, ".:%d {\n\tbind 127.0.0.1\n\tcache\n\tupstream . %s {\n\t\ttimeout 1m\n\t}\n}\n", at.Port(), up.addr), at)
	if err := s.outcome(); err != nil {
		t.Fatal(err)
	}
	joined := func() int { return counted(t, "nearpath_upstream_coalesced_total") }
	repeated := func() int {
		return counted(t, "nearpath_upstream_hedged_total") + counted(t, "nearpath_upstream_retried_total")
	}
	before, repeatedBefore := joined(), repeated()
	var asking []*dns.Conn
	for i := range clients {
		socket, err := net.Dial([]string{"udp", "tcp"}[i%2], at.String())
		if err != nil {
			t.Fatal(err)
		}
		c := &dns.Conn{Conn: socket}
		defer c.Close()
		asking = append(asking, c)
		if err := c.WriteMsg(new(dns.Msg).SetQuestion(name, dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if i%atOnce == atOnce-1 {
			eventually(t, "questions to arrive", func() bool { return joined()-before == i })
		}
	}
	up.release()
	for i, c := range asking {
		if err := c.SetReadDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		if reply, err := c.ReadMsg(); err != nil || len(reply.Answer) != 1 {
			t.Fatalf("client %d: %v, %v", i, reply, err)
		}
	}
	asked := up.count(name+" udp") + up.count(name+" tcp")
	t.Logf("%d clients: the upstream was asked %d times, %d of them again", clients, asked, repeated()-repeatedBefore)
	if asked < 1 || asked > 1+repeated()-repeatedBefore {
		t.Errorf("the upstream was asked %d times, %d of them because it was slow", asked, repeated()-repeatedBefore)
	}
}
