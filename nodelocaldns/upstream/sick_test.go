package upstream

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// Three servers that have an error for everything are not all who are asked, once they have shown it.
func TestSickServers(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	n.reply = func(a *asked, from netip.AddrPort) []byte {
		if from.Addr().As4()[3] <= 3 {
			return failing(dns.RcodeServerFailure)(a)
		}
		return ok(a)
	}
	for _, transport := range []Transport{UDPFirst, TCP} {
		synctest.Test(t, func(t *testing.T) {
			u := n.upstream(t, Config{Targets: at(transport, "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"), Policy: Sequential})
			for i := range 10 {
				reply := mustAsk(t, u, fmt.Sprintf("n%d.example.", i))
				if good := reply.Rcode == dns.RcodeSuccess; good != (i >= 2) {
					t.Errorf("question %d: %s", i, dns.RcodeToString[reply.Rcode])
				}
			}
		})
	}
}

// A question for which everybody is down counts once, however many are asked how often.
func TestBrokenCountsQuestions(t *testing.T) {
	t.Parallel()
	for _, transport := range []Transport{UDPFirst, TCP} {
		n := newNetwork()
		n.delay = func(netip.AddrPort, string, string) time.Duration { return -1 }
		synctest.Test(t, func(t *testing.T) {
			u := n.upstream(t, Config{Targets: at(transport, "192.0.2.1", "192.0.2.2", "192.0.2.3"), MaxFails: 1})
			for i := range 4 {
				if _, err := u.Exchange(t.Context(), question(fmt.Sprintf("down%d.example.", i))); err == nil {
					t.Error("an answer")
				}
			}
			before := value(t, u.Metrics.broken)
			for i := range 3 {
				if _, err := u.Exchange(t.Context(), question(fmt.Sprintf("n%d.example.", i))); err == nil {
					t.Error("an answer")
				}
			}
			if broken := value(t, u.Metrics.broken) - before; broken != 3 {
				t.Errorf("3 questions count as %v", broken)
			}
		})
	}
}

// A connection that has lost a reply, when there is nobody any more who waits on it, is closed by the next question rather than
// when it has been idle for long.
func TestLostReply(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	n.delay = func(_ netip.AddrPort, _, name string) time.Duration {
		if name == "lost.example." {
			return -1
		}
		return time.Millisecond
	}
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(TCP, "192.0.2.1"), Connections: 1, Timeout: 300 * time.Millisecond, ReadTimeout: 300 * time.Millisecond})
		warmUp(t, u)
		if _, err := u.Exchange(t.Context(), question("lost.example.")); err == nil {
			t.Error("an answer")
		}
		time.Sleep(maxSilence)
		mustAsk(t, u, "n1.example.")
		synctest.Wait()
		if c := n.connections("192.0.2.1"); c != 1 {
			t.Errorf("%d connections are open", c)
		}
	})
}
