package nodelocaldns

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/miekg/dns"
)

// stopTimeout bounds how long queries in flight may hold up the end of the process: kernel answers and fail-over to
// cluster DNS go on without it.
const stopTimeout = 2 * time.Second

// awaitTimeout is how long listeners may take to answer that were bound before, and awaitAgain how soon one is asked again.
const (
	awaitTimeout = 2 * time.Second
	awaitAgain   = 100 * time.Millisecond
)

// defaultEvery is how often a Server compares its Corefile.
const defaultEvery = 5 * time.Second

// ServerConfig is what a Server needs.
type ServerConfig struct {
	// Corefile is the configuration as it should be now, one that [Config.Corefile] wrote or a user's own. It is asked at the
	// start and every so often.
	Corefile func() ([]byte, error)
	// Required are the addresses that the Corefile must listen on, on UDP and TCP.
	Required []netip.AddrPort
	// Refused is told why a Corefile is not served, and nil when the one that should be is.
	Refused func(error)
	// Every is how often the Corefile is compared, and how long a start that failed is put off; 0 means 5 s.
	Every time.Duration
	Log   *slog.Logger
}

// A Server runs CoreDNS in this process. The settings of CoreDNS belong to the whole process, so run one at a time.
// Besides those that its caller registers by importing them, the plugins are those in stock.go.
//
// It is a task: Run once, Ready is closed when every listener is bound.
type Server struct {
	cfg   ServerConfig
	seen  []byte // the Corefile that was tried last
	ready chan struct{}
	live  atomic.Pointer[caddy.Instance]
	told  error
}

// NewServer returns a Server.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Every == 0 {
		cfg.Every = defaultEvery
	}
	return &Server{cfg: cfg, ready: make(chan struct{})}
}

// Ready is closed when every listener is bound.
func (s *Server) Ready() <-chan struct{} { return s.ready }

func (s *Server) String() string { return "node DNS" }

// Run serves until ctx ends, then lets queries in flight finish for 2 s at most and returns nil. A Corefile with a fault is
// refused, whole, and the last good one goes on; before there was one, Run tries again. Errors name the line of the
// Corefile, or the address that cannot be listened on.
func (s *Server) Run(ctx context.Context) error {
	dnsserver.Quiet, caddy.Quiet = true, true // no banner on standard output
	tick := time.NewTicker(s.cfg.Every)
	defer tick.Stop()
	for {
		s.tell(s.follow())
		select {
		case <-ctx.Done():
			if instance := s.live.Load(); instance != nil {
				s.stop(instance)
			}
			return nil
		case <-tick.C:
		}
	}
}

// tell reports what has changed.
func (s *Server) tell(err error) {
	if (err == nil && s.told == nil) || (err != nil && s.told != nil && err.Error() == s.told.Error()) {
		return
	}
	s.told = err
	if s.cfg.Refused != nil {
		s.cfg.Refused(err)
	}
}

// follow serves by the Corefile as it should be now. What was refused is not tried again before it changes, unless nothing
// serves yet: then what was in the way may have gone.
func (s *Server) follow() error {
	corefile, err := s.cfg.Corefile()
	if err != nil {
		return err
	}
	running := s.live.Load()
	if running != nil && bytes.Equal(corefile, s.seen) {
		return s.told
	}
	s.seen = corefile
	if running == nil {
		return s.start(corefile)
	}
	return s.reload(running, corefile)
}

func (s *Server) start(corefile []byte) error {
	if err := checkBound(corefile, s.cfg.Required); err != nil {
		return fmt.Errorf("start node DNS: %w", err)
	}
	in := newAttempt(corefile)
	instance, err := in.start()
	if err != nil {
		in.discard()
		closeForgotten()
		return fmt.Errorf("start node DNS: %w", err)
	}
	s.live.Store(instance)
	close(s.ready) // first: on a node the kernel drops questions to a listener that nothing is sent to yet
	s.await(instance)
	s.cfg.Log.Info("node DNS serves", "listeners", listeners(instance))
	return nil
}

// reload changes to another Corefile. Listeners that both have stay open, so no query is lost; the caches of plugins begin
// anew.
func (s *Server) reload(running *caddy.Instance, corefile []byte) error {
	if err := checkBound(corefile, s.cfg.Required); err != nil {
		return fmt.Errorf("change node DNS: %w", err)
	}
	in := newAttempt(corefile)
	next, err := in.replace(running)
	if err != nil {
		in.discard()
		closeForgotten()
		return fmt.Errorf("change node DNS: %w", err)
	}
	s.live.Store(next)
	s.await(next)
	s.cfg.Log.Info("node DNS serves by another Corefile", "listeners", listeners(next))
	return nil
}

// await waits until every listener answers. caddy returns before its servers run, and one that is stopped before it runs goes
// on for ever. A question of class CHAOS is refused before it gets to plugins.
func (s *Server) await(instance *caddy.Instance) {
	question := new(dns.Msg).SetQuestion(".", dns.TypeTXT)
	question.Question[0].Qclass = dns.ClassCHAOS
	client, late := dns.Client{Timeout: awaitAgain}, time.Now().Add(awaitTimeout)
	for _, l := range instance.Servers() {
		for _, addr := range []net.Addr{l.Addr(), l.LocalAddr()} {
			if addr == nil {
				continue
			}
			client.Net = addr.Network()
			_, _, err := client.Exchange(question, addr.String())
			for err != nil && time.Now().Before(late) {
				time.Sleep(awaitAgain / 10) // an error may come at once
				_, _, err = client.Exchange(question, addr.String())
			}
			if err != nil {
				s.cfg.Log.Warn("a listener of node DNS does not answer DNS", "listener", addr.String(), "err", err)
			}
		}
	}
}

// closeForgotten closes listeners that a failed start has bound: caddy forgets them, and a socket that nobody reads would
// get its share of the queries. They are closed as garbage, which they are not yet: caddy keeps its list of instances in an
// array, whose end still holds those that it took off the list.
func closeForgotten() {
	list := caddy.Instances()
	clear(list[len(list):cap(list)])
	runtime.GC()
}

// stop ends the listeners first: plugins must outlive the queries in flight.
func (s *Server) stop(instance *caddy.Instance) {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		if err := instance.Stop(); err != nil {
			s.cfg.Log.Warn("node DNS did not stop cleanly", "err", err)
		}
		for _, err := range instance.ShutdownCallbacks() {
			s.cfg.Log.Warn("node DNS did not stop cleanly", "err", err)
		}
		instance.Wait()
	}()
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-stopped:
	case <-timeout.C:
		s.cfg.Log.Warn("node DNS left queries unanswered", "waited", stopTimeout)
	}
}

func listeners(instance *caddy.Instance) []string {
	var addrs []string
	for _, server := range instance.Servers() {
		addrs = append(addrs, server.Addr().String())
	}
	return addrs
}
