//go:build node

package dns

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// The roles: a server of all names at addresses, and one who asks a server at a pace until its standard input ends.
const (
	roleServer = "server"
	roleLoad   = "load"
)

// What is asked for: Services, a few outside names that everybody asks for, and outside names that nobody asks for twice.
// The first two are held: they must be answered whatever happens.
const (
	services = 50
	hots     = 50
	hotTTL   = 4 // seconds
)

type class uint8

const (
	ofCluster class = iota
	hot
	cold
)

type outcome uint8

const (
	answered outcome = iota
	lost             // nothing came within queryTimeout
	refused          // an error of the socket: a port was unreachable
	failed           // SERVFAIL or another status
	wrong            // another answer than there is
)

func (o outcome) String() string {
	return [...]string{"answered", "lost", "refused", "failed", "wrong"}[o]
}

// queryTimeout is short of what any resolver waits for an answer.
const queryTimeout = 3 * time.Second

// A record is what became of a query.
type record struct {
	Began   int64  // CLOCK_REALTIME, nanoseconds
	Took    uint32 // microseconds
	Class   class
	Outcome outcome
	Kept    bool // by a socket that asked before
	Late    bool // who asked had no processor in time
}

func play(role string, args []string) error {
	switch role {
	case roleServer:
		return serve(args)
	case roleLoad:
		return load(args)
	}
	return errors.New("unknown role")
}

// addressOf is what a name has. Those of the cluster have what their Services have.
func addressOf(name string) (netip.Addr, uint32) {
	label, _, _ := strings.Cut(strings.ToLower(name), ".")
	kind, number, _ := strings.Cut(label, "-")
	n, _ := strconv.ParseUint(number, 10, 32)
	switch kind {
	case "svc":
		return clusterIP(int(n)), 5
	case "hot":
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), hotTTL
	}
	return netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}), 30
}

func clusterIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, 1, byte(i)}) }

// serve answers at addresses, by UDP and TCP, and says so.
func serve(addrs []string) error {
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		q := r.Question[0]
		if q.Qtype == dns.TypeA {
			addr, ttl := addressOf(q.Name)
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: addr.AsSlice()})
		}
		_ = w.WriteMsg(m)
	})
	ended := make(chan error)
	var started sync.WaitGroup
	for _, addr := range addrs {
		for _, network := range []string{"udp", "tcp"} {
			started.Add(1)
			s := &dns.Server{Addr: addr, Net: network, Handler: handler, NotifyStartedFunc: started.Done}
			go func() { ended <- s.ListenAndServe() }()
		}
	}
	go func() {
		started.Wait()
		_, _ = os.Stdout.WriteString("ready\n")
	}()
	return <-ended
}

// A client asks from one socket, or from a new one each time as resolvers do; for what is held, or for cold names.
type client struct {
	server  string
	fresh   bool
	cold    bool
	conn    net.Conn
	buf     [4096]byte
	records []record
}

// load asks SERVER, COUNT times a second, by WORKERS and another one who asks for cold names, each fiftieth time as often.
func load(args []string) error {
	qps, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	workers, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	clients := make([]*client, workers+1)
	var running sync.WaitGroup
	for i := range clients {
		c := &client{server: args[0], fresh: i%2 == 1, cold: i == workers}
		pause := time.Second * time.Duration(workers) / time.Duration(qps)
		if c.cold {
			c.fresh, pause = true, time.Second*50/time.Duration(qps)
		}
		clients[i] = c
		running.Go(func() { c.run(stop, pause, args[3]) })
	}
	running.Wait()
	out := bufio.NewWriter(os.Stdout)
	for _, c := range clients {
		if err := binary.Write(out, binary.NativeEndian, c.records); err != nil {
			return err
		}
	}
	return out.Flush()
}

func (c *client) run(stop chan struct{}, pause time.Duration, self string) {
	next := time.Now()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		// Whoever is late asks less, and does not catch up.
		late := false
		if wait := time.Until(next); wait > 0 {
			time.Sleep(wait)
			late = time.Since(next) > lateAtMost
			next = next.Add(pause)
		} else {
			next = time.Now().Add(pause)
		}
		what, name := c.choose(n, self)
		r := record{Began: time.Now().UnixNano(), Class: what, Kept: !c.fresh, Late: late}
		r.Outcome = c.ask(name)
		r.Took = uint32((time.Now().UnixNano() - r.Began) / int64(time.Microsecond))
		c.records = append(c.records, r)
	}
}

// choose has three Services to two hot names.
func (c *client) choose(n int, self string) (class, string) {
	switch {
	case c.cold:
		return cold, fmt.Sprintf("cold-%d.%s.example.com.", n, self)
	case n%5 < 3:
		return ofCluster, fmt.Sprintf("svc-%d.default.svc.cluster.local.", rand.IntN(services))
	}
	return hot, fmt.Sprintf("hot-%d.example.com.", rand.IntN(hots))
}

func (c *client) ask(name string) outcome {
	if c.conn != nil && c.fresh {
		_ = c.conn.Close()
		c.conn = nil
	}
	if c.conn == nil {
		var err error
		if c.conn, err = net.Dial("udp", c.server); err != nil {
			return refused
		}
	}
	question := new(dns.Msg).SetQuestion(name, dns.TypeA)
	packed, err := question.PackBuffer(c.buf[:])
	if err != nil {
		return wrong
	}
	_ = c.conn.SetDeadline(time.Now().Add(queryTimeout))
	if _, err := c.conn.Write(packed); err != nil {
		return refused
	}
	for {
		n, err := c.conn.Read(c.buf[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return lost
		}
		if err != nil {
			return refused
		}
		var reply dns.Msg
		if reply.Unpack(c.buf[:n]) == nil && reply.Id == question.Id {
			return judge(name, &reply)
		}
	}
}

func judge(name string, reply *dns.Msg) outcome {
	if reply.Rcode != dns.RcodeSuccess {
		return failed
	}
	want, _ := addressOf(name)
	for _, rr := range reply.Answer {
		if a, is := rr.(*dns.A); is && a.A.Equal(want.AsSlice()) {
			return answered
		}
	}
	return wrong
}
