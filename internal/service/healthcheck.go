package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/nearpath/nearpath/internal/cluster"
)

// healthCheckRetry is how often ports that could not be opened are tried again, and the node's addresses looked at.
const healthCheckRetry = 5 * time.Second

// HealthChecksConfig is what NewHealthChecks needs. All fields are required.
type HealthChecksConfig struct {
	// Node is the Reconciler's.
	Node Node
	// Addresses are where node ports are served; all: on every address there is.
	Addresses func() (list []netip.Addr, all bool)
	// Healthy is the proxy's own health, which every answer includes.
	Healthy func() bool
	// Warn makes an event of a port that cannot be opened.
	Warn func(about cluster.Object, reason, message string)
	Log  *slog.Logger
}

// HealthChecks answers load balancers on the health-check node ports of Services: whether the node has endpoints of the
// Service that are ready, and how many (pkg/proxy/healthcheck/service_health.go of Kubernetes 1.36). It is a Task; Synced
// must be told what the Reconciler has done. Its methods are safe for concurrent use.
type HealthChecks struct {
	cfg   HealthChecksConfig
	ready chan struct{}
	wake  chan struct{} // capacity 1
	bind  func(ctx context.Context, network, address string) (net.Listener, error)

	mu   sync.Mutex
	want map[healthPort]health

	// Of Run alone.
	open map[healthAddr]*healthServer
	said map[healthAddr]string // the last failure
}

// A healthPort is one that a Service has in one family: each family has its own endpoints.
type healthPort struct {
	service cluster.Name
	port    uint16
	v6      bool
}

type health struct {
	uid   string
	ready int // addresses of local endpoints that are ready
}

// A healthServer is an open port.
type healthServer struct {
	http.Server
	ended chan struct{} // closed when it answers no more
}

// A healthAddr is a listener: a port on one address, or on the unspecified one.
type healthAddr struct {
	healthPort
	addr netip.Addr
}

// NewHealthChecks makes a Task that serves nothing yet.
func NewHealthChecks(cfg HealthChecksConfig) *HealthChecks {
	h := &HealthChecks{
		cfg: cfg, ready: make(chan struct{}), wake: make(chan struct{}, 1), want: map[healthPort]health{},
		open: map[healthAddr]*healthServer{}, said: map[healthAddr]string{},
		bind: new(net.ListenConfig).Listen,
	}
	close(h.ready)
	return h
}

func (h *HealthChecks) String() string { return "health-check node ports" }

// Ready is closed: a port that cannot be opened keeps nothing else from working.
func (h *HealthChecks) Ready() <-chan struct{} { return h.ready }

// Synced takes what the Reconciler did. What is not served is not announced.
func (h *HealthChecks) Synced(s Sync) {
	if s.Maps != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.Change.Full {
		clear(h.want)
	}
	changed := s.Change.Full
	eachTouched(s.Change, func(name cluster.Name) {
		for p := range h.want {
			if p.service == name {
				delete(h.want, p)
				changed = true
			}
		}
		changed = h.add(s.Change.Snapshot, name) || changed
	})
	if changed {
		h.kick()
	}
}

func (h *HealthChecks) kick() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// add puts what a Service has, and reports whether that is something. The caller holds mu.
func (h *HealthChecks) add(s *cluster.Snapshot, name cluster.Name) bool {
	svc := s.Service(name)
	if svc == nil || svc.HealthCheckNodePort == 0 || !h.cfg.Node.serves(svc) {
		return false
	}
	v4, v6 := LocalReady(s.Slices(name), h.cfg.Node)
	for _, ip := range svc.ClusterIPs {
		ready := v4
		if ip.Is6() {
			ready = v6
		}
		h.want[healthPort{name, svc.HealthCheckNodePort, ip.Is6()}] = health{svc.UID, ready}
	}
	return len(svc.ClusterIPs) > 0
}

// Run opens and closes ports until ctx ends.
func (h *HealthChecks) Run(ctx context.Context) error {
	defer h.closeAll()
	tick := time.NewTicker(healthCheckRetry)
	defer tick.Stop()
	for {
		h.listen(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
		case <-tick.C:
		}
	}
}

func (h *HealthChecks) closeAll() {
	for _, s := range h.open {
		_ = s.Close()
	}
	clear(h.open)
}

// listen brings the listeners to what is wanted. Those that go are closed first: a port may have moved to another Service.
func (h *HealthChecks) listen(ctx context.Context) {
	want := h.wanted()
	for a, server := range h.open {
		if _, ok := want[a]; !ok || server.hasEnded() {
			_ = server.Close()
			delete(h.open, a)
		}
	}
	for a := range h.said {
		if _, ok := want[a]; !ok {
			delete(h.said, a)
		}
	}
	for a, uid := range want {
		if h.open[a] != nil {
			continue
		}
		server, err := h.serve(ctx, a)
		if err != nil {
			h.warn(a, uid, err)
			continue
		}
		delete(h.said, a)
		h.open[a] = server
	}
}

// wanted are the listeners there should be, each with its Service's UID.
func (h *HealthChecks) wanted() map[healthAddr]string {
	addrs, all := h.cfg.Addresses()
	if all {
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[healthAddr]string{}
	for p, of := range h.want {
		for _, a := range addrs {
			if a.Is6() == p.v6 {
				out[healthAddr{p, a}] = of.uid
			}
		}
	}
	return out
}

// warn says each failure once. The words are kube-proxy's.
func (h *HealthChecks) warn(a healthAddr, uid string, err error) {
	message := fmt.Sprintf("node %s failed to start healthcheck %q on port %d: %v", h.cfg.Node.Name, a.service, a.port, err)
	if h.said[a] == message {
		return
	}
	h.said[a] = message
	h.cfg.Log.Warn("health-check node port not served, it is tried again", "service", a.service, "port", a.port, "err", err)
	h.cfg.Warn(cluster.Object{Kind: "Service", Name: a.service, UID: uid}, "FailedToStartServiceHealthcheck", message)
}

func (h *HealthChecks) serve(ctx context.Context, a healthAddr) (*healthServer, error) {
	network := "tcp4"
	if a.v6 {
		network = "tcp6"
	}
	l, err := h.bind(ctx, network, netip.AddrPortFrom(a.addr, a.port).String())
	if err != nil {
		return nil, err
	}
	server := &healthServer{http.Server{Handler: h.handler(a.healthPort), ReadHeaderTimeout: 5 * time.Second}, make(chan struct{})}
	go func() {
		defer h.kick()
		defer close(server.ended)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			h.cfg.Log.Error("health-check node port ended", "service", a.service, "port", a.port, "err", err)
		}
	}()
	return server, nil
}

func (s *healthServer) hasEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// handler answers for one port: 200 with endpoints while the proxy is healthy, else 503. Load balancers that give nodes
// weights read the header.
func (h *HealthChecks) handler(p healthPort) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		ready := h.want[p].ready
		h.mu.Unlock()
		healthy := h.cfg.Healthy()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(ready))
		if ready == 0 || !healthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, "{\n\t\"service\": {\n\t\t\"namespace\": %q,\n\t\t\"name\": %q\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": %v\n}",
			p.service.Namespace, p.service.Name, ready, healthy)
	})
}
