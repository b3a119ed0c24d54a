package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
)

// A flow makes requests at a fixed rate, whether or not earlier ones have been answered: by TCP each on a new connection, by
// UDP all on one socket.
type flow struct {
	stop context.CancelFunc

	mu       sync.Mutex // guards the fields below
	asked    []time.Time
	answered map[int]bool // by index in asked
}

// A flowed is how a flow did.
type flowed struct {
	Asked    int `json:"asked"`
	Answered int `json:"answered"`
	// Steady is how many of the last requests were answered without one between that was not. Those that may still be
	// answered do not count.
	Steady int `json:"steady"`
	// Gap is the longest time from a request that was answered to the next one that was.
	Gap time.Duration `json:"gap"`
}

func (f *flow) run(ctx context.Context, o order) {
	tick := time.NewTicker(o.Every)
	defer tick.Stop()
	send := func(i int) { go f.connect(ctx, o, i) }
	if o.Network == "udp" {
		conn, err := net.Dial(o.Network, o.To)
		if err != nil {
			return
		}
		defer conn.Close()
		go f.receive(conn)
		send = func(i int) { _, _ = fmt.Fprintf(conn, "%d\n", i) } // an ICMP error of before is no reason to stop
	}
	for {
		f.mu.Lock()
		f.asked = append(f.asked, time.Now())
		i := len(f.asked) - 1
		f.mu.Unlock()
		send(i)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// connect makes one request on a connection of its own.
func (f *flow) connect(ctx context.Context, o order, i int) {
	o.ID = i
	if seen, _, err := ask(context.WithoutCancel(ctx), o); err == nil {
		f.note(seen.Key)
	}
}

func (f *flow) receive(conn net.Conn) {
	datagram := make([]byte, 4096)
	for {
		n, err := conn.Read(datagram)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		var seen sighting
		if err == nil && json.Unmarshal(datagram[:n], &seen) == nil {
			f.note(seen.Key)
		}
	}
}

func (f *flow) note(key string) {
	i, err := strconv.Atoi(key)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answered[i] = true
}

// report sums up. Requests younger than pending may still be answered.
func (f *flow) report(pending time.Duration) *flowed {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &flowed{Asked: len(f.asked), Answered: len(f.answered)}
	last, now := -1, time.Now()
	for i, at := range f.asked {
		switch {
		case f.answered[i]:
			if last >= 0 {
				r.Gap = max(r.Gap, at.Sub(f.asked[last]))
			}
			last = i
			r.Steady++
		case now.Sub(at) > pending:
			r.Steady = 0
		}
	}
	if last >= 0 && r.Steady == 0 { // it has not come back
		r.Gap = max(r.Gap, now.Sub(f.asked[last]))
	}
	return r
}
