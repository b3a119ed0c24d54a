package nodelocaldns_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coredns/coredns/plugin/metrics/vars"
	"github.com/miekg/dns"
	dto "github.com/prometheus/client_model/go"

	"github.com/nearpath/nearpath/autopath"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/nodelocaldns"
	"github.com/nearpath/nearpath/nodelocaldns/answerstest"
	"github.com/nearpath/nearpath/plugins/answers"
	pathplugin "github.com/nearpath/nearpath/plugins/autopath"
	"github.com/nearpath/nearpath/plugins/nearpath"
)

const (
	// packetsEnv is how many made-up packets are sent over each transport, madeUp unless it says otherwise.
	packetsEnv = "NEARPATH_PACKETS"
	madeUp     = 6000
	// volley is how many packets are sent before an answer to a good question is waited for.
	volley = 32
	// cartName is what every good question is about.
	cartName = "cart.shop.svc.cluster.local."
)

// A target is a server with the whole chain of a node, and who attacks it.
type target struct {
	addr   string
	socket net.Conn // UDP
	id     uint16   // of the last packet
	sent   map[uint16][]byte
}

// startTarget serves names of a cluster, searches for the client, and asks an upstream for the rest.
func startTarget(tb testing.TB) *target {
	tb.Helper()
	store := cluster.NewStore()
	store.Replace(objects("10.96.0.7"))
	nearpath.Provide(store.Snapshot)
	scope, err := autopath.NewScope([]string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local"}, 5, "cluster.local")
	if err != nil {
		tb.Fatal(err)
	}
	pathplugin.Provide(pathplugin.Node{Scopes: oneScope(scope)})
	answers.Provide(answers.Node{External: nodelocaldns.NewExternal(nodelocaldns.ExternalConfig{
		Answers: new(answerstest.Map), Domains: []string{"cluster.local"}, Log: slog.New(slog.DiscardHandler),
	})})
	at := freeAddr(tb)
	corefile, err := nodelocaldns.Config{
		Listen: []netip.AddrPort{at}, TTL: 5, Upstreams: []string{startUpstream(tb).addr}, Autopath: true,
	}.Corefile()
	if err != nil {
		tb.Fatal(err)
	}
	s := run(tb, corefile, at)
	if err := s.outcome(); err != nil {
		tb.Fatal(err)
	}
	socket, err := net.Dial("udp", at.String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = socket.Close() })
	return &target{addr: at.String(), socket: socket, sent: map[uint16][]byte{}}
}

// oneScope is how every client searches.
type oneScope autopath.Scope

func (s oneScope) Scope(context.Context, netip.Addr) (autopath.Scope, bool) {
	return autopath.Scope(s), true
}

// Malformed, cut, long and nonsensical packets over UDP and TCP, and connections that are given up in the middle: no plugin
// panics, what is answered is answered rightly, good questions between them are answered, and nothing is left of it all.
func TestServerSurvivesHostilePackets(t *testing.T) {
	n := madeUp
	if text := os.Getenv(packetsEnv); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	s := startTarget(t)
	corpus := hostile(t)
	s.overUDP(t, corpus)
	s.overTCP(t, corpus)
	before := measure()
	rng := rand.New(rand.NewPCG(6, 5))
	for sent := 0; sent < n && !t.Failed(); sent += volley {
		packets := make([][]byte, volley)
		for i := range packets {
			packets[i] = bend(rng, corpus)
		}
		s.overUDP(t, packets)
		s.overTCP(t, packets)
		s.giveUp(t, packets[rng.IntN(volley)])
	}
	if panics := panics(t); panics > 0 {
		t.Errorf("%v panics", panics)
	}
	var after load
	eventually(t, "the end of what packets have begun", func() bool {
		after = measure()
		return after.goroutines <= before.goroutines+volley
	})
	t.Logf("%d packets by each transport: from %+v to %+v", n, before, after)
	if after.heap > before.heap+maxGrowth {
		t.Errorf("%d bytes are in use, %d before", after.heap, before.heap)
	}
}

// maxGrowth is what a full cache takes, and a multiple of what a few thousand names do.
const maxGrowth = 48 << 20

func FuzzServer(f *testing.F) {
	for i, packet := range hostile(f) {
		if i%12 == 0 { // each seed takes a moment before fuzzing begins; the test above sends them all
			f.Add(packet)
		}
	}
	s := startTarget(f)
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) > dns.MaxMsgSize-1000 {
			return // is no datagram
		}
		s.overUDP(t, [][]byte{packet})
		s.overTCP(t, [][]byte{packet})
		if panics := panics(t); panics > 0 {
			t.Fatal("a plugin panicked")
		}
	})
}

// A load is what the process uses.
type load struct {
	goroutines int
	heap       uint64
}

func measure() load {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return load{runtime.NumGoroutine(), m.HeapInuse}
}

// panics is how many of them CoreDNS has recovered from since the start of the process.
func panics(t *testing.T) float64 {
	t.Helper()
	var m dto.Metric
	if err := vars.Panic.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// number gives a packet an id that no other has had of late, by which a reply to it is known.
func (s *target) number(packet []byte) []byte {
	packet = slices.Clone(packet)
	if len(packet) < 12 {
		return packet // is never replied to
	}
	s.id++
	binary.BigEndian.PutUint16(packet, s.id)
	s.sent[s.id] = packet
	return packet
}

// question is a good one.
func (s *target) question(t *testing.T) []byte {
	t.Helper()
	text, err := new(dns.Msg).SetQuestion(cartName, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return s.number(text)
}

// overUDP sends packets and waits for the answer to a good question. A reply to one of them may come with the next ones.
func (s *target) overUDP(t *testing.T, packets [][]byte) {
	t.Helper()
	for _, p := range packets {
		if _, err := s.socket.Write(s.number(p)); err != nil {
			t.Fatal(err)
		}
	}
	question := s.question(t)
	reply := make([]byte, dns.MaxMsgSize)
	for start := time.Now(); time.Since(start) < deadline; {
		if _, err := s.socket.Write(question); err != nil {
			t.Fatal(err)
		}
		if err := s.socket.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		for {
			n, err := s.socket.Read(reply)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break // it was lost: the server's buffer was full
			}
			if err != nil {
				t.Fatal(err)
			}
			if s.check(t, reply[:n]) == &question[0] {
				return
			}
		}
	}
	t.Fatal("a good question is not answered any more over UDP")
}

// overTCP sends packets and a good question on one connection, which the server answers in order.
func (s *target) overTCP(t *testing.T, packets [][]byte) {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	var stream []byte
	add := func(p []byte) { stream = append(binary.BigEndian.AppendUint16(stream, uint16(len(p))), p...) }
	for _, p := range packets {
		add(s.number(p))
	}
	question := s.question(t)
	add(question)
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(stream)
		written <- err
	}()
	for answered := false; !answered; {
		var size uint16
		if err := binary.Read(c, binary.BigEndian, &size); err != nil {
			t.Fatalf("a good question is not answered any more over TCP: %v", err)
		}
		reply := make([]byte, size)
		if _, err := io.ReadFull(c, reply); err != nil {
			t.Fatal(err)
		}
		answered = s.check(t, reply) == &question[0]
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// giveUp sends the beginning of a packet, says that more of it comes, and closes.
func (s *target) giveUp(t *testing.T, packet []byte) {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	stream := append(binary.BigEndian.AppendUint16(nil, uint16(len(packet)+100)), packet...)
	if _, err := c.Write(stream[:1+len(stream)/2]); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

// check returns the first byte of the packet that a reply is to, and fails the test when it is not a right one.
func (s *target) check(t *testing.T, reply []byte) *byte {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil || !m.Response || s.sent[m.Id] == nil {
		t.Errorf("the reply %x is none: %v", reply, err)
		return nil
	}
	packet := s.sent[m.Id]
	q := new(dns.Msg)
	switch err := q.Unpack(packet); {
	case packet[2]&0x80 != 0:
		t.Errorf("%x, which is no question, is answered with %v", packet, m)
	case err != nil && m.Rcode != dns.RcodeFormatError && m.Rcode != dns.RcodeNotImplemented:
		t.Errorf("%x, of which nobody can make sense, is answered with %v", packet, m)
	case err == nil && len(m.Question) > 0 && !slices.Equal(m.Question, q.Question):
		t.Errorf("%v is answered with %v", q, m)
	case err == nil && len(m.Answer) > 0 && (len(q.Question) == 0 || !strings.EqualFold(m.Answer[0].Header().Name, q.Question[0].Name)):
		t.Errorf("%v is answered with %v", q, m)
	case err == nil && len(q.Question) == 1 && q.Question[0].Name == cartName && q.Question[0].Qtype == dns.TypeA &&
		q.Opcode == dns.OpcodeQuery && m.Rcode == dns.RcodeSuccess && len(m.Answer) != 1:
		t.Errorf("%v is answered with %v", q, m)
	}
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok && a.A.String() != addressOf(a.Hdr.Name) {
			t.Errorf("%v is answered with %v", q, m)
		}
	}
	return &packet[0]
}

// addressOf is the one that a name has, in the cluster or upstream.
func addressOf(name string) string {
	switch name = strings.ToLower(name); {
	case name == cartName:
		return "10.96.0.7"
	case dns.IsSubDomain("example.com.", name):
		return "192.0.2.1"
	case dns.IsSubDomain("pod.cluster.local.", name):
		label, _, _ := strings.Cut(name, ".")
		return strings.ReplaceAll(label, "-", ".")
	}
	return "none"
}
