package upstream

import (
	"encoding/binary"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
)

// A server is a DNS server on loopback whose replies, and faults, a test writes. UDP and TCP have the same port.
type server struct {
	addr netip.AddrPort
	// reply is called for every query, in a goroutine of its own. It returns what to send; nil sends nothing.
	reply func(from *asked) []byte
	count atomic.Int64 // queries

	tcp     *net.TCPListener
	udp     *net.UDPConn
	running sync.WaitGroup

	mu    sync.Mutex
	conns map[*net.TCPConn]bool
	names []string
	ids   map[uint16]bool
	ports map[uint16]bool // of UDP clients
}

// An asked is a query as the server has it.
type asked struct {
	*dns.Msg
	s     *server
	proto string
	conn  *net.TCPConn // nil for UDP
}

// serve starts a server at an address, 127.0.0.1 and any port by default.
func serve(tb testing.TB, reply func(*asked) []byte, at ...netip.AddrPort) *server {
	tb.Helper()
	s := &server{reply: reply, conns: make(map[*net.TCPConn]bool), ids: make(map[uint16]bool), ports: make(map[uint16]bool)}
	want := netip.MustParseAddrPort("127.0.0.1:0")
	if len(at) > 0 {
		want = at[0]
	}
	// The port may be taken: by somebody's UDP socket when TCP was given it, or for a moment by a client's when it is a
	// certain one.
	until(tb, "the port is free", func() bool {
		tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(want))
		if err != nil {
			return false
		}
		s.tcp, s.addr = tcp, tcp.Addr().(*net.TCPAddr).AddrPort()
		if s.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(s.addr)); err != nil {
			tcp.Close()
		}
		return err == nil
	})
	s.running.Go(s.serveTCP)
	s.running.Go(s.serveUDP)
	tb.Cleanup(s.stop)
	return s
}

// stop closes every socket; connections get a RST.
func (s *server) stop() {
	s.tcp.Close()
	s.udp.Close()
	s.reset()
	s.running.Wait()
}

// reset ends all connections with a RST.
func (s *server) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		_ = conn.SetLinger(0)
		conn.Close()
	}
	clear(s.conns)
}

func (s *server) serveTCP() {
	for {
		conn, err := s.tcp.AcceptTCP()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[conn] = true
		s.mu.Unlock()
		s.running.Go(func() { s.serveConn(conn) })
	}
}

func (s *server) serveConn(conn *net.TCPConn) {
	defer func() {
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
		conn.Close()
	}()
	var mu sync.Mutex
	for {
		query, err := readFrame(conn)
		if err != nil {
			return
		}
		s.running.Go(func() {
			s.handle(query, "tcp", conn, func(reply []byte) {
				mu.Lock()
				defer mu.Unlock()
				_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
			})
		})
	}
}

func (s *server) serveUDP() {
	buffer := make([]byte, 4096)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		query := append([]byte(nil), buffer[:n]...)
		s.running.Go(func() {
			s.mu.Lock()
			s.ports[from.Port()] = true
			s.mu.Unlock()
			s.handle(query, "udp", nil, func(reply []byte) { _, _ = s.udp.WriteToUDPAddrPort(reply, from) })
		})
	}
}

func (s *server) handle(query []byte, proto string, conn *net.TCPConn, send func([]byte)) {
	m := new(dns.Msg)
	if m.Unpack(query) != nil {
		return
	}
	s.count.Add(1)
	s.mu.Lock()
	s.names, s.ids[m.Id] = append(s.names, m.Question[0].Name), true
	s.mu.Unlock()
	if reply := s.reply(&asked{m, s, proto, conn}); reply != nil {
		send(reply)
	}
}

// asksFor is how many queries there were for a name.
func (s *server) asksFor(name string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, have := range s.names {
		if have == name {
			n++
		}
	}
	return n
}

// ok answers every question with 192.0.2.1.
func ok(a *asked) []byte { return packed(a.answer("192.0.2.1")) }

// nothing is a server that takes everything and says nothing.
func nothing(*asked) []byte { return nil }

// failing has one code for everything.
func failing(rcode int) func(*asked) []byte {
	return func(a *asked) []byte { return packed(new(dns.Msg).SetRcode(a.Msg, rcode)) }
}

// answer has the address, or a NS record for probes.
func (a *asked) answer(addr string) *dns.Msg {
	m := new(dns.Msg).SetReply(a.Msg)
	q := a.Question[0]
	if q.Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30}, A: net.ParseIP(addr)}}
	}
	if a.IsEdns0() != nil {
		m.SetEdns0(1232, false)
	}
	return m
}

func packed(m *dns.Msg) []byte {
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// target is where the server is asked.
func (s *server) target(t Transport) Target { return Target{Addr: s.addr, Transport: t} }

// dead is an address on which nothing listens.
func dead(tb testing.TB) netip.AddrPort {
	tb.Helper()
	s := serve(tb, nothing, alone)
	s.stop()
	return s.addr
}

// open makes an Upstream that is closed when the test ends, and after which nothing may be left.
func open(tb testing.TB, c Config) *Upstream {
	tb.Helper()
	c.Pool = NewPool()
	return openIn(tb, c)
}

func openIn(tb testing.TB, c Config) *Upstream {
	tb.Helper()
	if c.Metrics == nil {
		m, err := NewMetrics(prometheus.NewRegistry())
		if err != nil {
			tb.Fatal(err)
		}
		c.Metrics = m
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.MaxFails == 0 {
		c.MaxFails = 2
	}
	u, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		u.Close()
		c.Pool.Wait()
	})
	return u
}

func question(name string) *dns.Msg { return new(dns.Msg).SetQuestion(name, dns.TypeA) }

// mustAsk returns the reply to an A question.
func mustAsk(tb testing.TB, u *Upstream, name string) *dns.Msg {
	tb.Helper()
	reply, err := u.Exchange(tb.Context(), question(name))
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return reply
}

// address is the one in a reply, "" without any.
func address(m *dns.Msg) string {
	if len(m.Answer) != 1 {
		return ""
	}
	return m.Answer[0].(*dns.A).A.String()
}

// until waits for a condition.
func until(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within 20 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// value is that of a counter or gauge.
func value(tb testing.TB, of prometheus.Metric) float64 {
	tb.Helper()
	var m dto.Metric
	if err := of.Write(&m); err != nil {
		tb.Fatal(err)
	}
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

func TestMain(m *testing.M) {
	// Tests wait for sockets and timers, not for the processor; fuzzing does.
	if flag.Parse(); flag.Lookup("test.fuzz").Value.String() == "" {
		if err := flag.Set("test.parallel", "32"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}
