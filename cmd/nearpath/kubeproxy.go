package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/service"
	"github.com/nearpath/nearpath/internal/takeover"
)

// A kubeProxyFace is what the agent shows and does because it stands where kube-proxy stood.
type kubeProxyFace struct {
	proxy   *service.KubeProxy
	checks  *service.HealthChecks
	metrics *prometheus.Registry // kube-proxy's, which are asked for at another port than ours
}

// newKubeProxyFace is made before the Reconciler, which tells it what it does.
func (a *agent) newKubeProxyFace(node service.Node) (f kubeProxyFace, err error) {
	f.metrics = prometheus.NewRegistry()
	f.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	changes := a.store.Subscribe(cluster.Services, cluster.Nodes)
	a.closers = append(a.closers, func() error { changes.Close(); return nil })
	f.proxy, err = service.NewKubeProxy(service.KubeProxyConfig{
		Changes: changes, Node: a.cfg.NodeName, NodeRequired: a.cfg.Manifests == "", Metrics: f.metrics,
		NoLocal: func(v6 bool) (internal, external int) { return a.services.NoLocalEndpoints(v6) },
	})
	f.checks = service.NewHealthChecks(service.HealthChecksConfig{
		Node: node, Healthy: f.proxy.Healthy, Log: a.log,
		Addresses: func() ([]netip.Addr, bool) { return a.host.NodePortAddrs() },
		Warn:      func(about cluster.Object, reason, message string) { a.events.Warn(about, reason, message) },
	})
	return f, err
}

// synced takes what the Reconciler did.
func (f kubeProxyFace) synced(s service.Sync) {
	f.proxy.Synced(s)
	f.checks.Synced(s)
}

// buildKubeProxy makes kube-proxy's ports, and what takes the node over from it.
func (a *agent) buildKubeProxy(context.Context) error {
	f, c := a.kubeProxy, a.cfg.Services
	a.tasks = append(a.tasks, f.proxy, f.checks)
	var servers []*patientServer
	for _, s := range []struct {
		name    string
		listen  netip.AddrPort
		handler http.Handler
	}{{"proxy health", c.HealthzAddress, f.healthMux()}, {"proxy metrics", c.MetricsAddress, f.metricsMux(a.cfg)}} {
		if s.listen.IsValid() {
			server := newPatientServer(s.name, s.listen, s.handler, a.warnNode, a.log)
			a.tasks, servers = append(a.tasks, server), append(servers, server)
		}
	}
	if !c.TakeOver {
		return nil
	}
	task, err := takeover.New(takeover.Config{
		First: []<-chan struct{}{a.attached, a.host.Ready()}, Running: func() (string, error) { return otherProxy(servers) },
		Unserved: func() error { return errors.Join(f.proxy.Unserved(), a.refused()) }, HostRoot: a.cfg.Network.HostRoot,
		Serves: f.proxy.Datagrams, Reconciled: f.proxy.Reconciled, Warn: a.warnNode, Log: a.log, Metrics: a.metrics,
	})
	a.tasks = append(a.tasks, task)
	return err
}

// otherProxy names what shows that kube-proxy works on the node: its process, or that somebody has one of its addresses. By
// the latter alone a proxy is seen that is part of another program, as that of k3s is, or in another process namespace.
func otherProxy(servers []*patientServer) (sign string, err error) {
	for _, s := range servers {
		if s.taken.Load() {
			return fmt.Sprintf("another program, kube-proxy most likely, listens at %s, which is to be that of %s", s.listen, s.name), nil
		}
	}
	return takeover.Running()
}

// healthMux is what kube-proxy serves at healthzBindAddress.
func (f kubeProxyFace) healthMux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("/healthz", f.proxy.Healthz())
	mux.Handle("/livez", f.proxy.Livez())
	return mux
}

// proxyMode is what /proxyMode says. kube-proxy says iptables, ipvs or nftables there, and nothing here is any of these.
const proxyMode = "nearpath"

// metricsMux is what kube-proxy serves at metricsBindAddress, without profiles.
func (f kubeProxyFace) metricsMux(c config) *http.ServeMux {
	plain := func(text func() string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			fmt.Fprint(w, text())
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(f.metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", plain(func() string { return "ok" }))
	mux.HandleFunc("/proxyMode", plain(func() string { return proxyMode }))
	mux.HandleFunc("/flagz", plain(func() string { return flagz(os.Args) }))
	mux.HandleFunc("/configz", func(w http.ResponseWriter, _ *http.Request) {
		text, err := configz(c)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(text)
	})
	return mux
}

// flagz shows how the process was started, under the words that kube-proxy puts above it
// (k8s.io/component-base/zpages/flagz).
func flagz(args []string) string {
	return "\nnearpath flagz\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n\n" +
		strings.Join(args, "\n") + "\n"
}

// configz is the configuration of the start, without keys: everybody on the node may read it.
func configz(c config) ([]byte, error) {
	for _, secret := range []*string{&c.Cloud.AccessKeyID, &c.Cloud.AccessKeySecret} {
		if *secret != "" {
			*secret = "(not shown)"
		}
	}
	return json.MarshalIndent(map[string]config{"nearpath": c}, "", "  ")
}

// patience is how long a server waits before it tries to listen again.
const patience = 5 * time.Second

// A patientServer is a Task that serves HTTP at an address when it can be had: another program, kube-proxy itself most
// likely, may still have it. Nothing waits for it.
type patientServer struct {
	name    string
	listen  netip.AddrPort
	handler http.Handler
	warn    func(reason, message string)
	log     *slog.Logger
	ready   chan struct{}
	taken   atomic.Bool // another program has the address
}

func newPatientServer(name string, listen netip.AddrPort, handler http.Handler, warn func(reason, message string), log *slog.Logger) *patientServer {
	s := &patientServer{name: name, listen: listen, handler: handler, warn: warn, log: log, ready: make(chan struct{})}
	close(s.ready)
	return s
}

func (s *patientServer) String() string         { return s.name }
func (s *patientServer) Ready() <-chan struct{} { return s.ready }

func (s *patientServer) Run(ctx context.Context) error {
	said := ""
	for ctx.Err() == nil {
		err := s.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && err.Error() != said {
			said = err.Error()
			s.warn("ProxyPortNotServed", fmt.Sprintf("%s is not served at %s, it is tried again: %v", s.name, s.listen, err))
			s.log.Warn("address not served, it is tried again", "what", s.name, "address", s.listen, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(patience):
		}
	}
	return nil
}

func (s *patientServer) serve(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.listen.String())
	s.taken.Store(errors.Is(err, unix.EADDRINUSE))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: s.handler, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	s.log.Info("address is served", "what", s.name, "address", s.listen)
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
