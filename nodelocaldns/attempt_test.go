package nodelocaldns_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"
)

// faulty counts the servers that it has started and not ended, and fails as its argument says.
var faulty atomic.Int32

var registerFaulty = sync.OnceFunc(func() {
	plugin.Register("faulty", func(c *caddy.Controller) error {
		c.Next()
		how := strings.Join(c.RemainingArgs(), " ")
		if how == "setup" {
			panic("a plugin that cannot be set up")
		}
		started := false
		c.OnStartup(func() error { started = true; faulty.Add(1); return nil })
		c.OnShutdown(func() error {
			if started {
				faulty.Add(-1)
			}
			if how == "end" {
				return errors.New("a plugin that does not end well")
			}
			return nil
		})
		c.OnStartup(func() error {
			switch how {
			case "start":
				return errors.New("a plugin that cannot start")
			case "panic":
				panic("a plugin that fails at its start")
			}
			return nil
		})
		return nil
	})
	dnsserver.Directives = append(dnsserver.Directives, "faulty")
})

// A Corefile that fails half way leaves nothing running, and what served before goes on; after a panic of a plugin, too.
func TestServerEndsWhatItRefuses(t *testing.T) {
	registerFaulty()
	at, up := freeAddr(t), startUpstream(t)
	tcp, udp := bindBoth(t)
	defer udp.Close()
	defer tcp.Close()
	_, taken, _ := strings.Cut(tcp.Addr().String(), ":")
	corefile := func(addr, how, more string) []byte {
		return fmt.Appendf(nil, ".:%d {\n\tbind 127.0.0.1\n\tmetadata\n\tanswers\n\thosts {\n\t\t%s a.example\n\t\tfallthrough\n\t}\n\tcache\n\tupstream . %s\n\tfaulty %s\n}\n%s",
			at.Port(), addr, up.addr, how, more)
	}
	block := fmt.Sprintf(".:%s {\n\tbind 127.0.0.1\n\tupstream . %s\n}\n", taken, up.addr)
	bad := map[string][]byte{
		"a port that is taken":    corefile("192.0.2.66", "", block),
		"an error at the start":   corefile("192.0.2.66", "start", ""),
		"a panic at the start":    corefile("192.0.2.66", "panic", ""),
		"a panic when it is read": corefile("192.0.2.66", "setup", ""),
	}
	serves := func(what, addr string) {
		t.Helper()
		if got := ask(t, "udp", at.String(), "a.example.", dns.TypeA); got != "NOERROR A "+addr {
			t.Errorf("%s: %s", what, got)
		}
	}
	for what, text := range bad {
		t.Run("start with "+what, func(t *testing.T) {
			s := run(t, text, at)
			if err := s.outcome(); err == nil {
				t.Error("served")
			}
			s.set(corefile("192.0.2.1", "", ""))
			<-s.Ready()
			eventually(t, "one socket", func() bool { return sockets(t, at) == 1 })
			serves("afterwards", "192.0.2.1")
			s.stop()
			if n := faulty.Load(); n != 0 {
				t.Errorf("%d servers were not ended", n)
			}
		})
	}
	s := run(t, corefile("192.0.2.1", "", ""), at)
	if err := s.outcome(); err != nil {
		t.Fatal(err)
	}
	for what, text := range bad {
		s.set(text)
		if err := <-s.refused; err == nil {
			t.Errorf("%s: served", what)
		}
		serves(what, "192.0.2.1")
		if n := faulty.Load(); n != 1 {
			t.Errorf("%s: %d servers run, want the one that serves", what, n)
		}
		s.set(corefile("192.0.2.1", "", ""))
		if err := <-s.refused; err != nil {
			t.Errorf("after %s: %v", what, err)
		}
	}
}

// Whoever does not end well when another Corefile serves is no reason to give that up.
func TestServerGoesOnWithoutWhoDoesNotEnd(t *testing.T) {
	registerFaulty()
	at := freeAddr(t)
	corefile := func(addr, how string) []byte {
		return fmt.Appendf(nil, ".:%d {\n\tbind 127.0.0.1\n\thosts {\n\t\t%s a.example\n\t}\n\tfaulty %s\n}\n", at.Port(), addr, how)
	}
	s := run(t, corefile("192.0.2.1", "end"), at)
	if err := s.outcome(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"192.0.2.2", "192.0.2.3"} {
		s.set(corefile(want, ""))
		awaitAnswer(t, at.String(), want)
		eventually(t, "the old one is ended", func() bool { return faulty.Load() == 1 })
	}
	if len(s.refused) > 0 {
		t.Error(<-s.refused)
	}
}

func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for start := time.Now(); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > deadline {
			tb.Fatalf("%s: not within %s", what, deadline)
		}
	}
}

// sockets counts the UDP sockets that are bound to an address of IPv4.
func sockets(t *testing.T, at netip.AddrPort) int {
	t.Helper()
	table, err := os.ReadFile("/proc/self/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	a := at.Addr().As4()
	return bytes.Count(table, fmt.Appendf(nil, ": %08X:%04X ", binary.NativeEndian.Uint32(a[:]), at.Port()))
}
