package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A reply that is later than usual is not waited for: the other endpoint has answered after the 95th percentile and its own
// time. When both are silent for a moment, one question in ten is hedged, and no more.
func TestHedge(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	var slow atomic.Bool
	n.delay = func(to netip.AddrPort, _, _ string) time.Duration {
		if slow.Load() && to.Addr().String() == "192.0.2.1" {
			return 90 * time.Millisecond
		}
		return time.Millisecond
	}
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(TCP, "192.0.2.1", "192.0.2.2"), Policy: Sequential})
		warmUp(t, u)
		slow.Store(true)
		from, after := took(t, u, "www.example.")
		if from != "192.0.2.2" || after > minLate+3*time.Millisecond {
			t.Errorf("the answer is from %s after %v", from, after)
		}
		if hedged := value(t, u.Metrics.hedged); hedged != 1 {
			t.Errorf("%v questions were hedged", hedged)
		}
	})
}

// What is missing, rather than late, is asked for again in any case.
func TestMissing(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	var gone atomic.Bool
	n.delay = func(to netip.AddrPort, _, _ string) time.Duration {
		if gone.Load() && to == port53("192.0.2.1") {
			return -1
		}
		return time.Millisecond
	}
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(TCP, "192.0.2.1", "192.0.2.2"), Policy: Sequential, NoHedge: true})
		warmUp(t, u)
		gone.Store(true)
		if from, after := took(t, u, "www.example."); from != "192.0.2.2" || after < minMissing || after > minMissing+2*time.Millisecond {
			t.Errorf("the answer is from %s after %v", from, after)
		}
	})
}

func TestHedgeBudget(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	n.delay = func(_ netip.AddrPort, _, name string) time.Duration {
		if name[0] == 's' {
			return 50 * time.Millisecond // less than what is missing, more than what is usual
		}
		return time.Millisecond
	}
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(UDPFirst, "192.0.2.1", "192.0.2.2")})
		warmUp(t, u)
		u.budget.tenths = 0
		const questions = 200
		var asking sync.WaitGroup
		for i := range questions {
			asking.Go(func() { mustAsk(t, u, fmt.Sprintf("s%d.example.", i)) })
		}
		asking.Wait()
		if hedged := value(t, u.Metrics.hedged); hedged == 0 || hedged > questions/10 {
			t.Errorf("%v of %d questions were hedged", hedged, questions)
		}
	})
}

// A slow question on a connection that is answered in order holds up those behind it for a moment, and no more.
func TestHeadOfLine(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	n.ordered = true
	n.delay = func(_ netip.AddrPort, _, name string) time.Duration {
		if name == "slow.example." {
			return -1
		}
		return time.Millisecond
	}
	const connections = 4
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(TCP, "192.0.2.1"), Connections: connections})
		warmUp(t, u)
		var asking sync.WaitGroup
		asking.Go(func() {
			if _, err := u.Exchange(t.Context(), question("slow.example.")); err == nil {
				t.Error("an answer to the slow question")
			}
		})
		synctest.Wait()
		worst, slow := time.Duration(0), 0
		for i := range 300 {
			_, after := took(t, u, fmt.Sprintf("n%d.example.", i))
			if worst = max(worst, after); after > 5*time.Millisecond {
				slow++
			}
			time.Sleep(10 * time.Millisecond)
		}
		if worst > minLate+5*time.Millisecond || slow > 3 {
			t.Errorf("with %d connections %d of 300 questions were slow, one took %v", connections, slow, worst)
		}
		asking.Wait()
		if c := n.connections("192.0.2.1"); c > maxSilent*connections {
			t.Errorf("%d connections, %d are allowed", c, maxSilent*connections)
		}
	})
}

// An endpoint that goes silent under load costs nobody an answer, and is hardly asked a moment later; when it is back it is
// asked again.
func TestBlackhole(t *testing.T) {
	t.Parallel()
	for name, transport := range map[string]Transport{"UDP": UDPFirst, "TCP": TCP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNetwork()
			var gone atomic.Bool
			n.cutOff = func(to netip.AddrPort) bool { return gone.Load() && to.Addr().String() == "192.0.2.1" }
			n.delay = func(to netip.AddrPort, _, _ string) time.Duration {
				if n.cutOff(to) {
					return -1
				}
				return time.Millisecond
			}
			synctest.Test(t, func(t *testing.T) {
				u := n.upstream(t, Config{Targets: at(transport, "192.0.2.1", "192.0.2.2", "192.0.2.3"), Policy: Sequential})
				warmUp(t, u)
				const rate = 500
				second := func(what string) (worst time.Duration, first int) {
					var mu sync.Mutex
					var asking sync.WaitGroup
					for i := range rate {
						asking.Go(func() {
							name := fmt.Sprintf("%s%d.example.", what, i)
							_, after := took(t, u, name)
							mu.Lock()
							defer mu.Unlock()
							worst = max(worst, after)
							first += n.asks("192.0.2.1", name)
						})
						time.Sleep(time.Second / rate)
					}
					asking.Wait()
					return worst, first
				}
				gone.Store(true)
				if worst, first := second("a"); worst > 250*time.Millisecond || first > 3*rate*int(minSilence/time.Millisecond)/1000 {
					t.Errorf("as the endpoint went, a question took %v, and %d went to it", worst, first)
				}
				if worst, first := second("b"); worst > 10*time.Millisecond || first > 5 {
					t.Errorf("a second later a question took %v, and %d of %d went to the endpoint", worst, first, rate)
				}
				gone.Store(false)
				time.Sleep(maxProbeEvery + probeTimeout)
				if _, first := second("c"); first < rate/10 {
					t.Errorf("%d of %d questions went to the endpoint that is back", first, rate)
				}
			})
		})
	}
}

// TCP connections that nobody uses are probed before a server closes them, and closed when nobody has used them for long.
func TestIdle(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(TCP, "192.0.2.1"), Expire: time.Minute})
		var asking sync.WaitGroup
		for i := range 50 {
			asking.Go(func() { mustAsk(t, u, fmt.Sprintf("n%d.example.", i)) })
		}
		asking.Wait()
		if c := n.connections("192.0.2.1"); c < 2 || c > u.Connections {
			t.Errorf("%d connections for 50 questions", c)
		}
		time.Sleep(30 * time.Second)
		if c, probes := n.connections("192.0.2.1"), n.asks("192.0.2.1", "."); c != 1 || probes < 3 || probes > 5 {
			t.Errorf("after 30 s: %d connections, %d probes", c, probes)
		}
		time.Sleep(60 * time.Second)
		probes := n.asks("192.0.2.1", ".")
		if c := n.connections("192.0.2.1"); c != 0 {
			t.Errorf("after 90 s: %d connections", c)
		}
		time.Sleep(60 * time.Second)
		if again := n.asks("192.0.2.1", "."); again != probes {
			t.Errorf("after 90 s: %d probes more", again-probes)
		}
		if from, _ := took(t, u, "www.example."); from != "192.0.2.1" {
			t.Errorf("after all that the answer is from %q", from)
		}
	})
}

// A server may close a connection that it has answered on at any time: the question on it goes over another one at once, and the
// server counts as well as before.
func TestServerHangsUpAtTimes(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	n.closes = 1
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(TCP, "192.0.2.1"), Connections: 1})
		for i := range 20 {
			if _, after := took(t, u, fmt.Sprintf("n%d.example.", i)); after != time.Millisecond {
				t.Errorf("question %d took %v", i, after)
			}
		}
		if failures := value(t, u.Metrics.failures.WithLabelValues(proxyName, "192.0.2.1:53")); failures != 0 {
			t.Errorf("%v failures are counted", failures)
		}
	})
}

// kubeDNS has an endpoint for each address, ready or not.
func kubeDNS(store *cluster.Store, ready map[string]bool) {
	name := cluster.Name{Namespace: "kube-system", Name: "kube-dns"}
	slice := &cluster.EndpointSlice{Name: name, Service: name, Ports: []cluster.EndpointPort{
		{Name: "metrics", Protocol: cluster.TCP, Port: 9153}, {Name: "dns-tcp", Protocol: cluster.TCP, Port: 53},
	}}
	for addr, is := range ready {
		slice.Endpoints = append(slice.Endpoints, cluster.Endpoint{Addr: netip.MustParseAddr(addr), Ready: is, Serving: is})
	}
	store.Update(func(e *cluster.Edit) {
		e.PutService(&cluster.Service{
			Name: name, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
			Ports: []cluster.ServicePort{{Name: "metrics", Protocol: cluster.TCP, Port: 9153}, {Name: "dns-tcp", Protocol: cluster.TCP, Port: 53}},
		})
		e.PutSlice(slice)
		e.MarkSynced()
	})
}

// An endpoint that is not ready any more gets nothing new; what it has been asked has a second, and then goes to another.
func TestDrain(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	n.delay = func(to netip.AddrPort, _, name string) time.Duration {
		switch {
		case to.Addr().String() == "192.0.2.2":
			return time.Millisecond
		case name == "soon.example.":
			return 900 * time.Millisecond
		case name == "never.example.":
			return -1
		}
		return time.Millisecond
	}
	store := cluster.NewStore()
	kubeDNS(store, map[string]bool{"192.0.2.1": true})
	service := []Target{{Service: cluster.Name{Namespace: "kube-system", Name: "kube-dns"}, Transport: TCP}}
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: service, Snapshot: store.Snapshot, NoHedge: true})
		// As slow as usual: nobody is asked twice for being late.
		for _, m := range *u.members.Load() {
			for range 3 * rttEnough {
				m.times.add(2 * time.Second)
			}
		}
		start := time.Now()
		var asking sync.WaitGroup
		for name, want := range map[string]string{"soon.example.": "192.0.2.1 0.9s", "never.example.": "192.0.2.2 1.001s"} {
			asking.Go(func() {
				reply := mustAsk(t, u, name)
				if got := fmt.Sprintf("%s %gs", address(reply), time.Since(start).Seconds()); got != want {
					t.Errorf("%s: %s, want %s", name, got, want)
				}
			})
		}
		synctest.Wait()
		kubeDNS(store, map[string]bool{"192.0.2.1": false, "192.0.2.2": true})
		for i := range 10 {
			if from, _ := took(t, u, fmt.Sprintf("n%d.example.", i)); from != "192.0.2.2" {
				t.Errorf("a new question went to %s", from)
			}
		}
		asking.Wait()
		synctest.Wait()
		if c := n.connections("192.0.2.1"); c != 0 {
			t.Errorf("%d connections to the endpoint that is gone", c)
		}
	})
}

// Without endpoints the error says so; the first one is asked the moment it is there.
func TestServiceWithoutEndpoints(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	store := cluster.NewStore()
	service := []Target{{Service: cluster.Name{Namespace: "kube-system", Name: "kube-dns"}, Transport: TCP}}
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: service, Snapshot: store.Snapshot})
		if _, err := u.Exchange(t.Context(), question("www.example.")); !errors.Is(err, ErrNoEndpoint) {
			t.Errorf("error %v", err)
		}
		kubeDNS(store, map[string]bool{"192.0.2.1": true})
		if from, _ := took(t, u, "new.example."); from != "192.0.2.1" {
			t.Errorf("answer from %q", from)
		}
	})
}

// A client's question ends in time though nobody says anything, and says why.
func TestTimeout(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	n.delay = func(netip.AddrPort, string, string) time.Duration { return -1 }
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(UDPFirst, "192.0.2.1", "192.0.2.2")})
		start := time.Now()
		_, err := u.Exchange(t.Context(), question("www.example."))
		if after := time.Since(start); err == nil || after > u.Timeout {
			t.Errorf("%v after %v", err, after)
		}
	})
}

// A name whose servers all fail is an error everywhere: three endpoints are asked, not all.
func TestErrorEverywhere(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	n.reply = func(a *asked, _ netip.AddrPort) []byte { return failing(dns.RcodeServerFailure)(a) }
	addrs := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"}
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(UDPFirst, addrs...)})
		if reply := mustAsk(t, u, "www.example."); reply.Rcode != dns.RcodeServerFailure {
			t.Errorf("reply %v", reply)
		}
		total := 0
		for _, addr := range addrs {
			total += n.asks(addr, "www.example.")
		}
		if total != maxBad {
			t.Errorf("%d queries, want %d", total, maxBad)
		}
	})
}

// A server without EDNS is asked again without, and from then on at once.
func TestNoEDNS(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	n.reply = func(a *asked, to netip.AddrPort) []byte {
		if a.IsEdns0() != nil {
			return packed(new(dns.Msg).SetRcodeFormatError(a.Msg))
		}
		return packed(a.answer(to.Addr().String()))
	}
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(UDPFirst, "192.0.2.1")})
		for i, want := range []int{2, 1, 1} {
			name := fmt.Sprintf("n%d.example.", i)
			if from, _ := took(t, u, name); from != "192.0.2.1" || n.asks("192.0.2.1", name) != want {
				t.Errorf("question %d: answer from %q after %d queries, want %d", i, from, n.asks("192.0.2.1", name), want)
			}
		}
	})
}

// Where UDP does not get through, TCP does.
func TestUDPIsLost(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	n.delay = func(_ netip.AddrPort, proto, _ string) time.Duration {
		if proto == "udp" {
			return -1
		}
		return time.Millisecond
	}
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(UDPFirst, "192.0.2.1")})
		if from, after := took(t, u, "www.example."); from != "192.0.2.1" || after > time.Second {
			t.Errorf("answer from %q after %v", from, after)
		}
	})
}

// A thousand clients that ask the same at the same time cause one query, in whatever case they write it; and so does one who
// asks a moment after the reply. Who asks for something else is no part of it.
func TestCoalescing(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	n.delay = func(netip.AddrPort, string, string) time.Duration { return 50 * time.Millisecond }
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(TCP, "192.0.2.1", "192.0.2.2")})
		ask := func(i int, name string) {
			q := question(name)
			q.Id = uint16(i)
			reply, err := u.Exchange(t.Context(), q)
			if err != nil || reply.Id != uint16(i) || reply.Question[0].Name != name || len(reply.Answer) != 1 {
				t.Errorf("client %d: %v, %v", i, reply, err)
			}
		}
		queries := func() int { return n.asks("192.0.2.1", "www.example.") + n.asks("192.0.2.2", "www.example.") }
		const clients = 1000
		var asking sync.WaitGroup
		asking.Go(func() { ask(0, "www.example.") })
		synctest.Wait()
		for i := range clients - 1 {
			asking.Go(func() { ask(i+1, []string{"www.example.", "WWW.example.", "wWw.Example."}[i%3]) })
		}
		asking.Wait()
		ask(clients, "www.example.")
		if q, coalesced := queries(), value(t, u.Metrics.coalesced); q != 1 || coalesced != clients {
			t.Errorf("%d queries for %d clients, %v coalesced", q, clients+1, coalesced)
		}
		withDO, checked, recursion := question("www.example."), question("www.example."), question("www.example.")
		withDO.SetEdns0(1232, true)
		checked.CheckingDisabled = true
		recursion.RecursionDesired = false
		for _, q := range []*dns.Msg{withDO, checked, recursion} {
			asking.Go(func() {
				if _, err := u.Exchange(t.Context(), q); err != nil {
					t.Error(err)
				}
			})
		}
		asking.Wait()
		if q := queries(); q != 4 {
			t.Errorf("%d queries for 4 different questions", q)
		}
		time.Sleep(linger)
		ask(1, "www.example.")
		if q := queries(); q != 5 {
			t.Errorf("%d queries after the reply has been kept long enough, want 5", q)
		}
		u.flights.mu.Lock()
		defer u.flights.mu.Unlock()
		if kept := len(u.flights.byKey); kept != 1 || u.flights.landed.Len() != 1 {
			t.Errorf("%d replies are kept in %d places, want the last one", kept, u.flights.landed.Len())
		}
	})
}

// A reply for one transaction only is not given to who comes later.
func TestZeroTTLDoesNotLinger(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	n.reply = func(a *asked, to netip.AddrPort) []byte {
		m := a.answer(to.Addr().String())
		m.Answer[0].Header().Ttl = 0
		return packed(m)
	}
	synctest.Test(t, func(t *testing.T) {
		u := n.upstream(t, Config{Targets: at(TCP, "192.0.2.1")})
		took(t, u, "www.example.")
		took(t, u, "www.example.")
		if q := n.asks("192.0.2.1", "www.example."); q != 2 {
			t.Errorf("%d queries for 2 questions", q)
		}
	})
}
