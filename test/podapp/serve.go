package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// upstreamTimeout bounds a front end's request to its back end. A resolver that lost one datagram asks again after five
// seconds (resolv.conf(5), timeout), which is slow and no failure.
const upstreamTimeout = 10 * time.Second

// An answer is what serve says about one request.
type answer struct {
	place
	Remote   string          `json:"remote"` // the client's address and port as seen here
	Path     string          `json:"path"`
	Upstream json.RawMessage `json:"upstream,omitempty"` // what the back end answered
	Error    string          `json:"error,omitempty"`    // why the back end did not
}

func serveCommand(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	upstream := flags.String("upstream", "", "URL to ask, on a new connection, for each request")
	grace := flags.Duration("grace", 25*time.Second, "longest time to go on after SIGTERM")
	quiet := flags.Duration("quiet", time.Second, "end after SIGTERM when no connection was open for this long")
	rest, err := parse(flags, args, 1)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", rest[0])
	if err != nil {
		return err
	}
	s := server{place: here(), upstream: *upstream, grace: *grace, quiet: *quiet}
	return s.serve(ctx, listener)
}

// A server answers HTTP requests with what it knows about them.
type server struct {
	place    place
	upstream string
	grace    time.Duration
	quiet    time.Duration
}

// serve serves until ctx ends and then until the connections have drained. It goes on accepting meanwhile: clients
// that have not heard yet that this pod is going away are still served.
func (s server) serve(ctx context.Context, listener net.Listener) error {
	open := &connections{idleSince: time.Now()}
	h := http.Server{
		Handler:           s,
		ConnState:         open.track,
		ReadHeaderTimeout: 10 * time.Second,
	}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	open.awaitIdle(s.quiet, time.Now().Add(s.grace))
	if err := h.Close(); err != nil {
		return err
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ServeHTTP answers any request with an answer in JSON; /healthz does not ask the back end.
func (s server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := answer{place: s.place, Remote: r.RemoteAddr, Path: r.URL.Path}
	status := http.StatusOK
	if s.upstream != "" && r.URL.Path != "/healthz" {
		body, err := fetch(r.Context(), s.upstream, upstreamTimeout)
		switch {
		case err != nil:
			a.Error, status = err.Error(), http.StatusBadGateway
		case json.Valid(body):
			a.Upstream = body
		default:
			a.Upstream, _ = json.Marshal(string(body))
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(a)
}

// connections knows how many connections are in use, and since when none is.
type connections struct {
	mu        sync.Mutex // guards the fields below
	active    map[net.Conn]bool
	idleSince time.Time
}

// track follows one connection; it is an http.Server.ConnState. A kept-alive connection without a request is not in
// use: its client retries on another one.
func (c *connections) track(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if state == http.StateNew || state == http.StateActive {
		if c.active == nil {
			c.active = make(map[net.Conn]bool)
		}
		c.active[conn] = true
		return
	}
	delete(c.active, conn)
	if len(c.active) == 0 {
		c.idleSince = time.Now()
	}
}

// idleFor is how long no connection has been in use.
func (c *connections) idleFor(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.active) > 0 {
		return 0
	}
	return now.Sub(c.idleSince)
}

// awaitIdle returns when no connection was in use for quiet, and at deadline in any case. Quiet begins with the call.
func (c *connections) awaitIdle(quiet time.Duration, deadline time.Time) {
	begin := time.Now()
	for {
		now := time.Now()
		left := quiet - min(c.idleFor(now), now.Sub(begin))
		if left <= 0 || now.After(deadline) {
			return
		}
		time.Sleep(min(left, 20*time.Millisecond))
	}
}

// fetch gets url on a connection of its own and returns the body; a status of 400 and above is an error.
func fetch(ctx context.Context, url string, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", url, err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return body, fmt.Errorf("get %s: %s: %s", url, resp.Status, body)
	}
	return body, nil
}
