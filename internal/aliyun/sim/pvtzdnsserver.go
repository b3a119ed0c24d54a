package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// A DNSServer answers queries of one VPC on its sockets.
type DNSServer struct {
	addr    net.Addr
	sockets []*dns.Server
	ready   chan struct{}
}

// ServeDNS implements dns.Handler.
func (r *Resolver) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	m := r.Answer(query)
	size, opt := dns.MaxMsgSize, query.IsEdns0()
	if w.RemoteAddr().Network() == "udp" {
		size = dns.MinMsgSize
		if opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
	}
	if opt != nil {
		m.SetEdns0(dns.DefaultMsgSize, false)
	}
	m.Truncate(size)
	_ = w.WriteMsg(m) // the client may be gone; there is nobody to tell
}

// Listen opens a socket of this machine: network is udp, tcp or dns, which is both at one port. Run serves it. For sockets
// inside a VPC, see Serve.
func (r *Resolver) Listen(ctx context.Context, network, address string) (*DNSServer, error) {
	var l net.Listener
	var pc net.PacketConn
	var err error
	switch network {
	case "udp":
		pc, err = new(net.ListenConfig).ListenPacket(ctx, "udp", address)
	case "tcp":
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", address)
	case "dns":
		l, pc, err = listenBoth(ctx, address)
	default:
		err = fmt.Errorf("network %q is not udp, tcp or dns", network)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for DNS: %w", err)
	}
	return r.Serve(l, pc), nil
}

// listenTries is how often a free TCP port is looked for that is free for UDP, too.
const listenTries = 16

func listenBoth(ctx context.Context, address string) (net.Listener, net.PacketConn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for range listenTries {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			return nil, nil, err
		}
		port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
		pc, err := new(net.ListenConfig).ListenPacket(ctx, "udp", net.JoinHostPort(host, port))
		if err == nil {
			return l, pc, nil
		}
		errs = append(errs, err)
		_ = l.Close()
	}
	return nil, nil, errors.Join(errs...)
}

// Serve takes sockets, of which one may be nil, such as those of VPC.Listen and VPC.ListenPacket. Run serves and closes
// them.
func (r *Resolver) Serve(l net.Listener, pc net.PacketConn) *DNSServer {
	s := &DNSServer{ready: make(chan struct{})}
	if pc != nil {
		s.addr = pc.LocalAddr()
		s.sockets = append(s.sockets, &dns.Server{PacketConn: pc, Handler: r})
	}
	if l != nil {
		s.addr = l.Addr()
		s.sockets = append(s.sockets, &dns.Server{Listener: l, Handler: r})
	}
	return s
}

// Addr is where the server listens.
func (s *DNSServer) Addr() net.Addr { return s.addr }

// String names the task.
func (s *DNSServer) String() string { return "DNS of PrivateZone" }

// Ready is closed when all sockets are served.
func (s *DNSServer) Ready() <-chan struct{} { return s.ready }

// Run answers until the context ends, and closes the sockets. It runs once.
func (s *DNSServer) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	started := make(chan struct{}, len(s.sockets))
	for _, server := range s.sockets {
		group.Go(func() error { return s.serve(ctx, server, started) })
	}
	group.Go(func() error {
		for range s.sockets {
			select {
			case <-started:
			case <-ctx.Done():
				return nil
			}
		}
		close(s.ready)
		return nil
	})
	return group.Wait()
}

func (s *DNSServer) serve(ctx context.Context, server *dns.Server, started chan<- struct{}) error {
	running := make(chan struct{})
	server.NotifyStartedFunc = func() {
		close(running)
		started <- struct{}{}
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ActivateAndServe() }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve DNS on %s: %w", s.addr, err)
	case <-running: // a server cannot be shut down before
	}
	select {
	case err := <-ended:
		return fmt.Errorf("serve DNS on %s: %w", s.addr, err)
	case <-ctx.Done():
	}
	_ = server.Shutdown() // what it answers last is of no interest
	<-ended
	return nil
}
