package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// An ask is one thing to find out: where a client's connections to an address end.
type ask struct {
	Place string         `json:"place"`
	To    netip.AddrPort `json:"to"`
	UDP   bool           `json:"udp,omitempty"`
	Tries int            `json:"tries"` // at least 1; after a first one without an answer no other is made
}

// An order is what a prober is told on its standard input, one JSON document each.
type order struct {
	Asks []ask `json:"asks"`
	// Patience is how long a connection without any answer is waited for.
	Patience time.Duration `json:"patience"`
	// Netfilter says that netfilter drops and refuses here: a datagram of the node itself that it does not let out is
	// EPERM to the sender at first, whatever becomes of it then.
	Netfilter bool `json:"netfilter,omitempty"`
}

// A reply answers an order.
type reply struct {
	Seen  []seen `json:"seen"` // one for each ask, in their order
	Error string `json:"error,omitempty"`
}

// seen is what became of the tries of an ask: how often which way it ended.
type seen map[ending]int

// An ending is how a connection ended: with an answer "backend source", refused, lost, or another error by its name.
type ending string

// Endings without an answer.
const (
	refused ending = "REFUSED"
	lost    ending = "LOST"
)

// answer is the ending of a connection that a backend answered, and what the backend says.
func answer(backend, source netip.AddrPort) string {
	return fmt.Sprintf("%s %s", backend, source.Addr())
}

// answered returns backend and source of an answer.
func (e ending) answered() (backend netip.AddrPort, source netip.Addr, ok bool) {
	at, from, found := strings.Cut(string(e), " ")
	if !found {
		return backend, source, false
	}
	backend, err := netip.ParseAddrPort(at)
	if err != nil {
		return backend, source, false
	}
	source, err = netip.ParseAddr(from)
	return backend, source, err == nil
}

func (s seen) tries() (n int) {
	for _, times := range s {
		n += times
	}
	return n
}

// add joins what was seen before.
func (s seen) add(more seen) seen {
	all := maps.Clone(s)
	if all == nil {
		all = seen{}
	}
	for e, n := range more {
		all[e] += n
	}
	return all
}

func (s seen) String() string {
	var parts []string
	for _, e := range slices.Sorted(maps.Keys(s)) {
		parts = append(parts, fmt.Sprintf("%s x%d", e, s[e]))
	}
	return strings.Join(parts, ", ")
}
