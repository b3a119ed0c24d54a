package upstream

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// A network is servers in memory, with a clock that only moves when everybody waits: what they do takes as long as they
// say, and nothing else takes any time.
type network struct {
	// delay is how long a server takes for a reply; below zero there is none.
	delay func(to netip.AddrPort, proto string, name string) time.Duration
	// reply is by default one with the server's own address in it.
	reply func(a *asked, to netip.AddrPort) []byte
	// ordered servers answer one question of a connection after the other, as CoreDNS does: one without a reply is the last.
	ordered bool
	// closes is after how many questions a server hangs up, when the next one is there; 0 for never.
	closes int
	// dead servers refuse connections, cut off ones do not even do that.
	dead, cutOff func(to netip.AddrPort) bool

	running sync.WaitGroup

	mu    sync.Mutex
	asked map[string]int // by "address name"
	dials map[netip.AddrPort]int
	open  map[netip.AddrPort]int // connections
}

func newNetwork() *network {
	never := func(netip.AddrPort) bool { return false }
	return &network{
		delay: func(netip.AddrPort, string, string) time.Duration { return time.Millisecond }, dead: never, cutOff: never,
		reply: func(a *asked, to netip.AddrPort) []byte { return packed(a.answer(to.Addr().String())) },
		asked: make(map[string]int), dials: make(map[netip.AddrPort]int), open: make(map[netip.AddrPort]int),
	}
}

func (n *network) dial(ctx context.Context, proto string, _ netip.Addr, to netip.AddrPort) (net.Conn, error) {
	switch {
	case n.cutOff(to) && proto == "tcp":
		<-ctx.Done()
		return nil, ctx.Err()
	case n.isDead(to) && proto == "tcp":
		return nil, &net.OpError{Op: "dial", Err: unix.ECONNREFUSED}
	}
	ours, theirs := net.Pipe()
	n.count(func() { n.dials[to]++; n.open[to]++ })
	n.running.Go(func() {
		defer theirs.Close()
		n.serve(theirs, to, proto)
		n.count(func() { n.open[to]-- })
	})
	return ours, nil
}

func (n *network) count(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func (n *network) serve(conn net.Conn, to netip.AddrPort, proto string) {
	buffer := make([]byte, 4096)
	for count := 0; ; count++ {
		var query []byte
		var err error
		if proto == "tcp" {
			query, err = readFrame(conn)
		} else {
			var size int
			size, err = conn.Read(buffer)
			query = append([]byte(nil), buffer[:size]...)
		}
		if err != nil {
			return
		}
		m := new(dns.Msg)
		if m.Unpack(query) != nil || n.closes > 0 && count == n.closes {
			return
		}
		name := m.Question[0].Name
		n.count(func() { n.asked[to.Addr().String()+" "+name]++ })
		delay := n.delay(to, proto, name)
		if delay < 0 && n.ordered {
			_, _ = io.Copy(io.Discard, conn)
			return
		}
		if delay < 0 || n.isDead(to) || n.cutOff(to) {
			continue
		}
		answer := func() {
			time.Sleep(delay)
			reply := n.reply(&asked{Msg: m, proto: proto}, to)
			if proto == "tcp" {
				reply = append([]byte{byte(len(reply) >> 8), byte(len(reply))}, reply...)
			}
			_, _ = conn.Write(reply)
		}
		if n.ordered {
			answer()
		} else {
			n.running.Go(answer)
		}
	}
}

func (n *network) isDead(to netip.AddrPort) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dead(to)
}

func (n *network) asks(to, name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[to+" "+name]
}

func (n *network) connections(to string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open[port53(to)]
}

func port53(addr string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(addr), 53) }

// upstream makes an Upstream on the network, in a bubble of synctest.
func (n *network) upstream(t *testing.T, c Config) *Upstream {
	t.Helper()
	c.Pool = NewPool()
	c.Pool.dial = n.dial
	t.Cleanup(n.running.Wait)
	return openIn(t, c)
}

func at(transport Transport, addrs ...string) []Target {
	targets := make([]Target, len(addrs))
	for i, addr := range addrs {
		targets[i] = Target{Addr: port53(addr), Transport: transport}
	}
	return targets
}

// took is how long a question takes, and where its answer is from.
func took(t *testing.T, u *Upstream, name string) (string, time.Duration) {
	t.Helper()
	start := time.Now()
	reply := mustAsk(t, u, name)
	return address(reply), time.Since(start)
}

// warmUp lets every endpoint be known as one that replies.
func warmUp(t *testing.T, u *Upstream) {
	t.Helper()
	for _, m := range *u.members.Load() {
		for i := range 3 * rttEnough {
			q, err := newQuery(question(fmt.Sprintf("warm%d.example.", i)))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.exchange(t.Context(), q, attempt{}); err != nil {
				t.Fatal(err)
			}
		}
	}
}
