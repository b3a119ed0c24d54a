package nodelocaldns

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
)

// stopTimeout bounds how long queries in flight may hold up the end of the process: kernel answers and fail-over to
// cluster DNS go on without it.
const stopTimeout = 2 * time.Second

// A Server runs CoreDNS in this process. The settings of CoreDNS belong to the whole process, so run one at a time.
//
// It is a task: Run once, Ready is closed when every listener is bound.
type Server struct {
	corefile []byte
	log      *slog.Logger
	ready    chan struct{}
}

// NewServer returns a Server for a Corefile, one that [Config.Corefile] wrote or a user's own. Besides `nearpath`, which
// its caller registers by importing plugins/nearpath, the plugins are those in stock.go.
func NewServer(corefile []byte, log *slog.Logger) *Server {
	return &Server{corefile: corefile, log: log, ready: make(chan struct{})}
}

// Ready is closed when every listener is bound.
func (s *Server) Ready() <-chan struct{} { return s.ready }

func (s *Server) String() string { return "node DNS" }

// Run serves until ctx ends, then lets queries in flight finish for 2 s at most and returns nil. An error in the Corefile
// names its line, a listener that cannot be bound its address.
func (s *Server) Run(ctx context.Context) error {
	dnsserver.Quiet, caddy.Quiet = true, true // no banner on standard output
	instance, err := caddy.Start(caddy.CaddyfileInput{
		Contents:       s.corefile,
		Filepath:       "Corefile",
		ServerTypeName: "dns",
	})
	if err != nil {
		instance.ShutdownCallbacks() // plugins may have started before the error
		return fmt.Errorf("start node DNS: %w", err)
	}
	close(s.ready)
	s.log.Info("node DNS serves", "listeners", listeners(instance))
	<-ctx.Done()
	s.stop(instance)
	return nil
}

// stop ends the listeners first: plugins must outlive the queries in flight.
func (s *Server) stop(instance *caddy.Instance) {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		if err := instance.Stop(); err != nil {
			s.log.Warn("node DNS did not stop cleanly", "err", err)
		}
		for _, err := range instance.ShutdownCallbacks() {
			s.log.Warn("node DNS did not stop cleanly", "err", err)
		}
		instance.Wait()
	}()
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-stopped:
	case <-timeout.C:
		s.log.Warn("node DNS left queries unanswered", "waited", stopTimeout)
	}
}

func listeners(instance *caddy.Instance) []string {
	var addrs []string
	for _, server := range instance.Servers() {
		addrs = append(addrs, server.Addr().String())
	}
	return addrs
}
