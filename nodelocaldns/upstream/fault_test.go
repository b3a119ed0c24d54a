package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// patience is for machines that have other things to do: what is to be seen is seen long before.
const patience = 20 * time.Second

// alone is an address no other server is at: a port that was free there stays so.
var alone = netip.MustParseAddrPort("127.9.9.9:0")

// reset ends the connection the question came on with a RST; over UDP it says nothing.
func reset(a *asked) []byte {
	if a.conn != nil {
		_ = a.conn.SetLinger(0)
		a.conn.Close()
	}
	return nil
}

// hangUp ends the connection in an orderly way.
func hangUp(a *asked) []byte {
	if a.conn != nil {
		a.conn.Close()
	}
	return nil
}

// swapped changes a good reply.
func swapped(change func(*dns.Msg)) func(*asked) []byte {
	return func(a *asked) []byte {
		m := a.answer("192.0.2.66")
		change(m)
		return packed(m)
	}
}

// faults are what a server may do to a question.
var faults = map[string]func(*asked) []byte{
	"says nothing": nothing,
	"resets":       reset,
	"hangs up":     hangUp,
	"fails":        failing(dns.RcodeServerFailure),
	"refuses":      failing(dns.RcodeRefused),
	"other id":     swapped(func(m *dns.Msg) { m.Id++ }),
	"other name":   swapped(func(m *dns.Msg) { m.Question[0].Name = "evil.example." }),
	"a name like it": swapped(func(m *dns.Msg) {
		m.Question[0].Name = strings.NewReplacer("n", "x", "w", "x").Replace(m.Question[0].Name)
	}),
	"other type":      swapped(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }),
	"other class":     swapped(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }),
	"no question":     swapped(func(m *dns.Msg) { m.Question = nil }),
	"two questions":   swapped(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }),
	"a question back": swapped(func(m *dns.Msg) { m.Response = false }),
	"other opcode":    swapped(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }),
	"bad version":     swapped(func(m *dns.Msg) { m.SetEdns0(1232, false).Rcode = dns.RcodeBadVers }),
	"cut off":         func(a *asked) []byte { b := ok(a); return b[:len(b)-3] },
	"header only":     func(a *asked) []byte { return ok(a)[:headerSize] },
	"less than that":  func(a *asked) []byte { return ok(a)[:5] },
	"empty":           func(*asked) []byte { return []byte{} },
	"counts too much": func(a *asked) []byte {
		b := ok(a)
		binary.BigEndian.PutUint16(b[6:], 9999)
		return b
	},
	"pointer to itself": func(a *asked) []byte {
		b := packed(new(dns.Msg).SetReply(a.Msg))
		b[7] = 1
		return append(b, 0xc0, byte(len(b)), 0, 1, 0, 1, 0, 0, 0, 0, 0, 0)
	},
}

// Whatever one server does, a client gets the good answer of the other, in less time than it would wait, and never another.
func TestFailover(t *testing.T) {
	t.Parallel()
	for fault, does := range faults {
		for name, transport := range map[string]Transport{"UDP": UDPFirst, "TCP": TCP} {
			t.Run(fault+" over "+name, func(t *testing.T) {
				t.Parallel()
				broken, good := serve(t, does), serve(t, ok)
				u := open(t, Config{Targets: []Target{broken.target(transport), good.target(transport)}, Policy: Sequential, Timeout: patience})
				// On a busy machine the good one may be first for a while, before there is a connection to the other.
				for i, start := 0, time.Now(); i < 30 || broken.count.Load() == 0 && time.Since(start) < patience; i++ {
					if got := address(mustAsk(t, u, fmt.Sprintf("n%d.example.", i))); got != "192.0.2.1" {
						t.Fatalf("question %d: %s", i, got)
					}
				}
				if broken.count.Load() == 0 {
					t.Error("the broken server was never asked")
				}
			})
		}
	}
}

// Alone, a server that does not answer leads to an error or to what it said, never to another answer.
func TestNothingIsMadeUp(t *testing.T) {
	t.Parallel()
	for fault, does := range faults {
		for name, transport := range map[string]Transport{"UDP": UDPFirst, "TCP": TCP} {
			t.Run(fault+" over "+name, func(t *testing.T) {
				t.Parallel()
				u := open(t, Config{
					Targets: []Target{serve(t, does).target(transport)}, ReadTimeout: 50 * time.Millisecond, Timeout: 400 * time.Millisecond,
				})
				reply, err := u.Exchange(t.Context(), question("www.example."))
				if err == nil && (len(reply.Answer) > 0 || reply.Rcode == dns.RcodeSuccess) {
					t.Errorf("reply %v", reply)
				}
				if err == nil && (reply.Question[0].Name != "www.example." || !reply.Response) {
					t.Errorf("the reply is to %v", reply.Question)
				}
			})
		}
	}
}

// Nobody listens: the error says so at once, and does not wait for the timeout.
func TestRefused(t *testing.T) {
	t.Parallel()
	for name, transport := range map[string]Transport{"UDP": UDPFirst, "TCP": TCP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := open(t, Config{Targets: []Target{{Addr: dead(t), Transport: transport}}, Timeout: patience})
			start := time.Now()
			_, err := u.Exchange(t.Context(), question("www.example."))
			if err == nil || !strings.Contains(err.Error(), "connection refused") || time.Since(start) >= u.Timeout {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
	}
}

// A server that dies and comes back is left alone in between and asked afterwards, though the other one never fails.
func TestDeathAndRebirth(t *testing.T) {
	t.Parallel()
	for name, transport := range map[string]Transport{"UDP": UDPFirst, "TCP": TCP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := serve(t, ok, alone), serve(t, ok)
			u := open(t, Config{
				Targets: []Target{first.target(transport), second.target(transport)}, Policy: Sequential, HealthCheck: 5 * time.Millisecond, Timeout: patience,
			})
			for i := range 5 {
				mustAsk(t, u, fmt.Sprintf("before%d.example.", i))
			}
			first.stop()
			for i := range 50 {
				mustAsk(t, u, fmt.Sprintf("while%d.example.", i))
			}
			again := serve(t, ok, first.addr)
			n := 0
			until(t, "the first one is asked again", func() bool {
				n++
				name := fmt.Sprintf("after%d.example.", n)
				mustAsk(t, u, name)
				return again.asksFor(name) > 0
			})
		})
	}
}

// Connections that are reset while questions wait on them: all of them are asked again, and answered.
func TestResetInFlight(t *testing.T) {
	t.Parallel()
	var gate atomic.Bool
	held := make(chan struct{})
	s := serve(t, func(a *asked) []byte {
		if !gate.Load() {
			<-held
			return nil
		}
		return ok(a)
	})
	u := open(t, Config{Targets: []Target{s.target(TCP)}, NoHedge: true, Timeout: patience})
	t.Cleanup(func() { close(held) })
	var asking sync.WaitGroup
	var failed atomic.Int64
	const questions = 200
	for i := range questions {
		asking.Go(func() {
			if reply, err := u.Exchange(t.Context(), question(fmt.Sprintf("n%d.example.", i))); err != nil || address(reply) != "192.0.2.1" {
				failed.Add(1)
			}
		})
	}
	until(t, "all are asked", func() bool { return s.count.Load() >= questions })
	gate.Store(true)
	s.reset()
	asking.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d questions failed", n, questions)
	}
}

// A connection on which a reply is to another question is given up: who knows what the next ones are to.
func TestMixedUpConnection(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	var running sync.WaitGroup
	c := newConn(ours, &running, func(*conn) {})
	running.Go(func() {
		defer theirs.Close()
		query, err := readFrame(theirs)
		m := new(dns.Msg)
		if err != nil || m.Unpack(query) != nil {
			return
		}
		reply := faults["other name"](&asked{Msg: m})
		_, _ = theirs.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
		_, _ = readFrame(theirs) // until the other side closes
	})
	q, err := newQuery(question("www.example."))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.exchange(t.Context(), q, false); !errors.Is(err, errMixedUp) {
		t.Errorf("error %v", err)
	}
	<-c.ended
	running.Wait()
}

// Replies in any order, many questions on one connection: each client gets its own.
func TestOutOfOrder(t *testing.T) {
	t.Parallel()
	const questions = 100
	var arrived sync.WaitGroup
	arrived.Add(questions)
	var once [questions]sync.Once // a question may be asked again when all this takes long
	turn := make([]chan struct{}, questions+1)
	for i := range turn {
		turn[i] = make(chan struct{})
	}
	s := serve(t, func(a *asked) []byte {
		var i int
		if _, err := fmt.Sscanf(a.Question[0].Name, "n%d.example.", &i); err != nil {
			return ok(a)
		}
		once[i].Do(func() {
			arrived.Done()
			arrived.Wait()
			<-turn[i+1]
			close(turn[i]) // the last one goes first
		})
		return packed(a.answer(fmt.Sprintf("192.0.2.%d", i)))
	})
	close(turn[questions])
	u := open(t, Config{Targets: []Target{s.target(TCP)}, Connections: 1, NoHedge: true, Timeout: patience})
	var asking sync.WaitGroup
	for i := range questions {
		asking.Go(func() {
			reply, err := u.Exchange(t.Context(), question(fmt.Sprintf("n%d.example.", i)))
			if err != nil || address(reply) != fmt.Sprintf("192.0.2.%d", i) {
				t.Errorf("question %d: %v, %v", i, reply, err)
			}
		})
	}
	asking.Wait()
}

// What does not fit a datagram comes over TCP.
func TestTruncated(t *testing.T) {
	t.Parallel()
	for name, short := range map[string]func(*asked) []byte{
		"TC":       swapped(func(m *dns.Msg) { m.Truncated, m.Answer = true, nil }),
		"too long": func(a *asked) []byte { return append(ok(a), make([]byte, maxDatagram)...) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(a *asked) []byte {
				if a.proto == "udp" {
					return short(a)
				}
				return ok(a)
			})
			u := open(t, Config{Targets: []Target{s.target(UDPFirst)}, Timeout: patience})
			if got := address(mustAsk(t, u, "www.example.")); got != "192.0.2.1" {
				t.Errorf("answer %q", got)
			}
			until(t, "the truncated reply is counted", func() bool {
				return value(t, u.Metrics.truncated.WithLabelValues(s.addr.String())) > 0
			})
		})
	}
}

// A flood of replies that somebody else makes up does not keep the true one from being taken.
func TestForgedReplies(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.reply = func(a *asked) []byte {
		if a.proto == "udp" {
			s.udp.SetWriteDeadline(time.Time{})
		}
		return ok(a)
	}
	u := open(t, Config{Targets: []Target{s.target(UDPFirst)}, Timeout: patience})
	dialed := u.Pool.dial
	u.Pool.dial = func(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
		socket, err := dialed(ctx, network, from, to)
		if err == nil && network == "udp" {
			for id := range 50 { // from the right address and port, with wrong ids or a wrong question
				m := new(dns.Msg).SetQuestion("www.example.", dns.TypeA)
				m.Id, m.Response = uint16(id), true
				m.Question[0].Name = "evil.example."
				_, _ = s.udp.WriteToUDPAddrPort(packed(m), socket.LocalAddr().(*net.UDPAddr).AddrPort())
			}
		}
		return socket, err
	}
	if got := address(mustAsk(t, u, "www.example.")); got != "192.0.2.1" {
		t.Errorf("answer %q", got)
	}
	if n := value(t, u.Metrics.mismatched.WithLabelValues(s.addr.String())); n < 50 {
		t.Errorf("%v of 50 forged replies are counted", n)
	}
}

// Nobody can guess what a reply must look like: ids are all over the place, and so are ports.
func TestUnguessable(t *testing.T) {
	t.Parallel()
	s := serve(t, ok)
	u := open(t, Config{Targets: []Target{s.target(UDPFirst)}, Timeout: patience})
	const questions = 300
	for i := range questions {
		mustAsk(t, u, fmt.Sprintf("n%d.example.", i))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	lowest := slices.Min(slices.Collect(maps.Keys(s.ids)))
	highest := slices.Max(slices.Collect(maps.Keys(s.ids)))
	if len(s.ids) < questions*9/10 || highest-lowest < 50_000 || len(s.ports) < questions*9/10 {
		t.Errorf("%d questions have %d ids from %d to %d and %d ports", questions, len(s.ids), lowest, highest, len(s.ports))
	}
}

// One server in three lives at any time, and all die and come back in turn, in every way: no question fails.
func TestChaos(t *testing.T) {
	t.Parallel()
	names := []string{"says nothing", "resets", "hangs up", "fails", "other name"}
	const servers, rounds, questions = 3, 12, 50
	var broken [servers]atomic.Pointer[func(*asked) []byte]
	var targets []Target
	for i := range servers {
		s := serve(t, func(a *asked) []byte {
			if does := broken[i].Load(); does != nil {
				return (*does)(a)
			}
			return ok(a)
		})
		targets = append(targets, s.target(Transport(i%2)))
	}
	u := open(t, Config{Targets: targets, HealthCheck: 10 * time.Millisecond, Timeout: patience})
	for round := range rounds {
		for i := range servers {
			does := faults[names[rand.IntN(len(names))]]
			if broken[i].Store(&does); i == round%servers {
				broken[i].Store(nil)
			}
		}
		var asking sync.WaitGroup
		for i := range questions {
			asking.Go(func() {
				reply, err := u.Exchange(t.Context(), question(fmt.Sprintf("n%d.r%d.example.", i, round)))
				if err != nil || address(reply) != "192.0.2.1" {
					t.Errorf("question %d of round %d: %v, %v", i, round, reply, err)
				}
			})
		}
		asking.Wait()
	}
}

// Nothing is left open after servers have done all they can: sockets are counted, goroutines in TestMain.
func TestNoSocketIsLeft(t *testing.T) { // not parallel: others open sockets
	sockets := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, e := range entries {
			if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "socket:") {
				n++
			}
		}
		return n
	}
	before := sockets()
	t.Run("faults", func(t *testing.T) {
		var targets []Target
		for _, does := range faults {
			s := serve(t, does)
			targets = append(targets, s.target(TCP), s.target(UDPFirst))
		}
		u := open(t, Config{Targets: targets, ReadTimeout: 50 * time.Millisecond, Timeout: 100 * time.Millisecond})
		var asking sync.WaitGroup
		for i := range 50 {
			asking.Go(func() { _, _ = u.Exchange(t.Context(), question(fmt.Sprintf("n%d.example.", i))) })
		}
		asking.Wait()
	})
	if after := sockets(); after != before {
		t.Errorf("%d sockets before, %d after", before, after)
	}
}

// A client that goes away gets its context's error; the question goes on for the others.
func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	opened := sync.OnceFunc(func() { close(gate) })
	s := serve(t, func(a *asked) []byte {
		<-gate
		return ok(a)
	})
	t.Cleanup(opened)
	u := open(t, Config{Targets: []Target{s.target(TCP)}, NoHedge: true, Timeout: patience})
	ctx, cancel := context.WithCancel(t.Context())
	gone, stayed := make(chan error, 1), make(chan error, 1)
	ask := func(ctx context.Context, result chan<- error) {
		_, err := u.Exchange(ctx, question("www.example."))
		result <- err
	}
	go ask(ctx, gone)
	go ask(t.Context(), stayed)
	until(t, "both wait", func() bool {
		u.flights.mu.Lock()
		defer u.flights.mu.Unlock()
		return u.flights.clients == 2
	})
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("who went away: %v", err)
	}
	opened()
	if err := <-stayed; err != nil {
		t.Errorf("who stayed: %v", err)
	}
}

// Above the limit the oldest question is dropped, and no other.
func TestDropOldest(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	opened := sync.OnceFunc(func() { close(gate) })
	s := serve(t, func(a *asked) []byte {
		<-gate
		return ok(a)
	})
	t.Cleanup(opened)
	u := open(t, Config{Targets: []Target{s.target(TCP)}, MaxConcurrent: 3, NoHedge: true, Timeout: patience})
	results := make([]chan error, 5)
	for i := range results {
		results[i] = make(chan error, 1)
		go func() {
			_, err := u.Exchange(t.Context(), question(fmt.Sprintf("n%d.example.", i)))
			results[i] <- err
		}()
		until(t, "the question is on its way", func() bool { return s.asksFor(fmt.Sprintf("n%d.example.", i)) > 0 })
	}
	for i := range 2 {
		if err := <-results[i]; !errors.Is(err, ErrDropped) {
			t.Errorf("question %d: %v", i, err)
		}
	}
	opened()
	for i := range results[2:] {
		if err := <-results[i+2]; err != nil {
			t.Errorf("question %d: %v", i+2, err)
		}
	}
	if n := value(t, u.Metrics.dropped); n != 2 {
		t.Errorf("%v questions are counted as dropped", n)
	}
}
