package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dialTimeout = time.Second
	// userTimeout is how long what was sent may stay unacknowledged: then a server is gone, whatever its last word.
	userTimeout = 1500 * time.Millisecond
	// maxSockets bounds the UDP sockets of a process; questions beyond go over TCP connections.
	maxSockets = 1024
)

// A Pool shares endpoints among Upstreams: one that replaces another keeps the connections of the endpoints they have in
// common, if it is made first. Its methods are safe for concurrent use.
type Pool struct {
	// dial makes a connection. Tests replace it.
	dial    func(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (net.Conn, error)
	sockets atomic.Int64 // UDP sockets in use
	running sync.WaitGroup
	tokens  tokens

	mu        sync.Mutex // guards endpoints and their refs
	endpoints map[endpointKey]*endpoint
}

type endpointKey struct {
	addr netip.AddrPort
	settings
}

// NewPool returns an empty Pool. A process needs one.
func NewPool() *Pool {
	return &Pool{dial: dial, endpoints: make(map[endpointKey]*endpoint)}
}

// Wait returns when nothing runs any more, which is within seconds of the end of the last Upstream.
func (p *Pool) Wait() { p.running.Wait() }

// acquire returns the endpoint with these settings, which release ends with its last user.
func (p *Pool) acquire(addr netip.AddrPort, s settings, m *Metrics) *endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := endpointKey{addr, s}
	e := p.endpoints[k]
	if e == nil {
		life, cancel := context.WithCancelCause(context.Background())
		e = &endpoint{
			settings: s, addr: addr, pool: p, metrics: m.endpoint(addr), life: life, cancel: cancel,
			wake: make(chan struct{}, 1), dialed: make(chan struct{}), used: time.Now(),
		}
		p.endpoints[k] = e
		p.running.Go(e.attend)
	}
	e.refs++
	return e
}

func (p *Pool) release(e *endpoint) {
	p.mu.Lock()
	e.refs--
	last := e.refs == 0
	if last {
		delete(p.endpoints, endpointKey{e.addr, e.settings})
	}
	p.mu.Unlock()
	if last {
		e.drain()
	}
}

func (p *Pool) takeSocket() bool {
	if p.sockets.Add(1) <= maxSockets {
		return true
	}
	p.sockets.Add(-1)
	return false
}

func (p *Pool) returnSocket() { p.sockets.Add(-1) }

func dial(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	if network == "udp" {
		return new(net.Dialer).DialUDP(ctx, network, netip.AddrPortFrom(from, 0), to)
	}
	d := net.Dialer{ControlContext: setUserTimeout}
	return d.DialTCP(ctx, network, netip.AddrPortFrom(from, 0), to)
}

func setUserTimeout(_ context.Context, _, _ string, raw syscall.RawConn) error {
	var err error
	controlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond))
	})
	return errors.Join(err, controlErr)
}
