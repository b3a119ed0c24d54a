package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nearpath/nearpath/internal/cluster"
)

// A checked is a HealthChecks that runs, with what it reads and tells in the test's hand.
type checked struct {
	*HealthChecks
	t     *testing.T
	store *cluster.Store

	mu      sync.Mutex
	addrs   []netip.Addr
	all     bool
	healthy bool
	events  []string
}

func newChecked(t *testing.T, addresses ...string) *checked {
	t.Helper()
	c := &checked{t: t, store: cluster.NewStore(), addrs: addrs(addresses...), all: len(addresses) == 0, healthy: true}
	c.HealthChecks = NewHealthChecks(HealthChecksConfig{
		Node: thisNode, Log: slog.New(slog.DiscardHandler),
		Addresses: func() ([]netip.Addr, bool) { c.mu.Lock(); defer c.mu.Unlock(); return c.addrs, c.all },
		Healthy:   func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.healthy },
		Warn: func(about cluster.Object, reason, message string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.events = append(c.events, fmt.Sprint(about.Kind, " ", about.Name, " ", reason, " ", message))
		},
	})
	return c
}

func (c *checked) told() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

func (c *checked) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
		if len(c.open) > 0 {
			c.t.Errorf("left open: %v", c.open)
		}
	})
}

func (c *checked) put(edits ...func(*cluster.Edit)) {
	for _, edit := range edits {
		c.store.Update(edit)
	}
	c.Synced(Sync{Change: cluster.Change{Snapshot: c.store.Snapshot(), Services: []cluster.Name{web}}})
}

// eventually waits for a condition, which says what is missing.
func eventually(t *testing.T, missing func() string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		text := missing()
		if text == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatal(text)
		}
	}
}

func checkHealth(address string) string {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + address + "/")
	if err != nil {
		return "no answer"
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return fmt.Sprint(r.StatusCode, " ", r.Header.Get("X-Load-Balancing-Endpoint-Weight"), " ", strings.Join(strings.Fields(string(body)), ""), errText(err))
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return " " + err.Error()
}

func (c *checked) wantAnswer(when, address, want string) {
	c.t.Helper()
	eventually(c.t, func() string {
		if got := checkHealth(address); got != want {
			return fmt.Sprintf("%s: %s answers %s, want %s", when, address, got, want)
		}
		return ""
	})
}

func answerOf(status, ready int, healthy bool) string {
	return fmt.Sprintf(`%d %d {"service":{"namespace":"shop","name":"web"},"localEndpoints":%d,"serviceProxyHealthy":%v}`, status, ready, ready, healthy)
}

// nextPort is where freePort looks next: below what the kernel gives to those who ask for any port.
var nextPort atomic.Uint32

// freePort is a port that nobody has now and nobody else gets by chance.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for {
		port := uint16(20000 + nextPort.Add(1))
		if l, err := net.Listen("tcp", fmt.Sprintf(":%d", port)); err == nil {
			l.Close()
			return port
		}
	}
}

func healthCheckPort(port uint16) func(*cluster.Service) {
	return func(s *cluster.Service) { s.ExternalLocal, s.HealthCheckNodePort = true, port }
}

func putEndpoints(endpoints ...cluster.Endpoint) func(*cluster.Edit) {
	s := slice(endpoints...)
	s.Name = cluster.Name{Namespace: "shop", Name: "web-1"}
	s.Ports = append(slices.Clone(s.Ports), cluster.EndpointPort{Name: "https", Protocol: cluster.TCP, Port: 8443})
	return func(e *cluster.Edit) { e.PutSlice(s) }
}

func TestHealthCheckNodePort(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	at := func(port uint16) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	c := newChecked(t, "127.0.0.1", "::1")
	c.run()
	c.put(putWeb(healthCheckPort(port)))
	c.wantAnswer("H1 no endpoints", at(port), answerOf(503, 0, true))
	c.put(putEndpoints(endpoint("10.0.0.1", local), endpoint("10.0.0.2", local), endpoint("10.0.0.3"), endpoint("10.0.0.4", local, draining), endpoint("fd00::1", local)))
	c.wantAnswer("H1 counts local ready addresses of the family, each once", at(port), answerOf(200, 2, true))
	c.mu.Lock()
	c.healthy = false
	c.mu.Unlock()
	c.wantAnswer("H1 a proxy that is not healthy", at(port), answerOf(503, 2, false))
	c.mu.Lock()
	c.healthy = true
	c.mu.Unlock()
	if got := checkHealth(fmt.Sprintf("[::1]:%d", port)); got != "no answer" {
		t.Errorf("H1 IPv6 of an IPv4 Service: %s", got)
	}
	c.put(putWeb(healthCheckPort(port), dualStack))
	c.wantAnswer("H1 IPv6 of a dual-stack Service has its own count", fmt.Sprintf("[::1]:%d", port), answerOf(200, 1, true))
	moved := freePort(t)
	c.put(putWeb(healthCheckPort(moved)))
	c.wantAnswer("H1 another port", at(moved), answerOf(200, 2, true))
	c.wantAnswer("H1 the port it had", at(port), "no answer")
	c.put(putWeb(healthCheckPort(moved), func(s *cluster.Service) { s.NamesProxy, s.ProxyName = true, "other" }))
	c.wantAnswer("H1 another proxy's Service", at(moved), "no answer")
	c.put(putWeb(healthCheckPort(moved)))
	c.wantAnswer("H1 ours again", at(moved), answerOf(200, 2, true))
	c.put(func(e *cluster.Edit) { e.DeleteService(web) })
	c.wantAnswer("H1 no Service", at(moved), "no answer")
	if told := c.told(); len(told) > 0 {
		t.Errorf("events: %v", told)
	}
}

func TestHealthCheckFailedSync(t *testing.T) {
	t.Parallel()
	c := newChecked(t, "127.0.0.1")
	c.store.Update(putWeb(healthCheckPort(1)))
	c.Synced(Sync{Change: cluster.Change{Snapshot: c.store.Snapshot(), Full: true}, Maps: errors.New("no such map")})
	if len(c.wanted()) > 0 {
		t.Error("H1 a Service is announced that is not served")
	}
}

// TestHealthCheckPortTaken: a port that another program has is told of and served when it is free.
func TestHealthCheckPortTaken(t *testing.T) {
	t.Parallel()
	c := newChecked(t, "127.0.0.1")
	port := freePort(t)
	other, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	c.run()
	c.put(putWeb(healthCheckPort(port)), putEndpoints(endpoint("10.0.0.1", local)))
	eventually(t, func() string {
		if len(c.told()) == 0 {
			return "H1 no event"
		}
		return ""
	})
	if want := "Service shop/web FailedToStartServiceHealthcheck node node-a failed to start healthcheck \"shop/web\" on port"; !strings.HasPrefix(c.told()[0], want) {
		t.Errorf("H1 event %s", c.told()[0])
	}
	other.Close()
	c.wantAnswer("H1 the port is free", fmt.Sprintf("127.0.0.1:%d", port), answerOf(200, 1, true))
	if told := c.told(); len(told) != 1 {
		t.Errorf("events: %v", told)
	}
}

// A failing is a listener that takes no connection any more when it is told so.
type failing struct {
	net.Listener
	fail chan struct{}
}

func (l failing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	select {
	case <-l.fail:
		return nil, errors.Join(errors.New("no more connections"), err)
	default:
		return c, err
	}
}

// TestHealthCheckEnds: a port whose listener fails is opened anew.
func TestHealthCheckEnds(t *testing.T) {
	t.Parallel()
	port, fail := freePort(t), make(chan struct{})
	c := newChecked(t, "127.0.0.1")
	bind, first := c.bind, true
	c.bind = func(ctx context.Context, network, address string) (net.Listener, error) {
		l, err := bind(ctx, network, address)
		if err == nil && first {
			l, first = failing{l, fail}, false
		}
		return l, err
	}
	c.run()
	c.put(putWeb(healthCheckPort(port)))
	at := fmt.Sprintf("127.0.0.1:%d", port)
	c.wantAnswer("H1 before", at, answerOf(503, 0, true))
	close(fail)
	checkHealth(at) // it sees the failure
	c.wantAnswer("H1 after its listener failed", at, answerOf(503, 0, true))
}

// TestHealthCheckAddresses: the addresses that node ports have are those of health checks, and they may change.
func TestHealthCheckAddresses(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	c := newChecked(t)
	c.run()
	c.put(putWeb(healthCheckPort(port)))
	c.wantAnswer("H1 every address", fmt.Sprintf("127.0.0.3:%d", port), answerOf(503, 0, true))
	c.mu.Lock()
	c.addrs, c.all = addrs("127.0.0.2"), false
	c.mu.Unlock()
	c.put(putWeb(healthCheckPort(port)))
	c.wantAnswer("H1 an address that is none any more", fmt.Sprintf("127.0.0.3:%d", port), "no answer")
	c.wantAnswer("H1 one that is", fmt.Sprintf("127.0.0.2:%d", port), answerOf(503, 0, true))
}
