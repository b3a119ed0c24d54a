//go:build node

package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
)

// A pair is one question of the table.
type pair struct {
	from, to *place
	kind
	family int // 0: IPv4, 1: IPv6
}

// A kind is what is asked by.
type kind struct {
	network string
	port    uint16 // 0 of a protocol without
	size    int    // of a datagram; 0: a byte
	options bool   // the datagram has options of IPv4, or extension headers of IPv6
}

// The kinds of a row that names none, and datagrams that are not plain.
var (
	plain = []kind{{network: "tcp", port: 80}, {network: "tcp", port: 81}, {network: "udp", port: 80}, {network: "icmp"}}
	odd   = []kind{
		{network: "udp", port: 80, size: 3000}, {network: "udp", port: 81, size: 3000},
		{network: "udp", port: 80, options: true}, {network: "udp", port: 81, options: true},
	}
)

func (p pair) String() string {
	return fmt.Sprintf("%s -> %s %+v IPv%d", p.from, p.to, p.kind, 4+2*p.family)
}

// always holds of a place with itself, and with its own node (reference rows S21, S24).
func (p pair) always() bool {
	return p.from == p.to || (p.from.node == p.to.node && (!p.from.isPod() || !p.to.isPod()))
}

// An extra is a question to an address that is no place's.
type extra struct {
	from    *place
	to      string
	allowed bool
}

// check asks all pairs and extras, and fails if one is heard that must not be, or not heard that must be.
func (w *world) check(t *testing.T, r row) {
	t.Helper()
	kinds := r.kinds
	if kinds == nil {
		kinds = plain
	}
	var left []asked
	for _, from := range w.places() {
		for _, to := range w.places() {
			if !from.isPod() && !to.isPod() {
				continue
			}
			for family := range to.addrs {
				for _, k := range kinds {
					p := pair{from, to, k, family}
					left = append(left, asked{from, to.question(k, family), p.String(), p.always() || r.allowed(p)})
				}
			}
		}
	}
	for _, e := range r.extras {
		left = append(left, asked{e.from, question{Network: "tcp", To: e.to, Timeout: denied}, fmt.Sprintf("%s -> %s", e.from, e.to), e.allowed})
	}
	total := len(left)
	await(t, "what is allowed", func() error {
		var err error
		left, err = ask(t, left)
		return err
	})
	t.Logf("%d questions", total)
}

// An asked is one question, and whether it is to be heard.
type asked struct {
	from    *place
	q       question
	what    string
	allowed bool
}

// ask asks them all, and fails if one is heard that must not be. Left are those that are not heard and should be: those get more time
// when they are asked again.
func ask(t *testing.T, all []asked) (left []asked, err error) {
	t.Helper()
	byPlace := map[*place][]asked{}
	for _, a := range all {
		byPlace[a.from] = append(byPlace[a.from], a)
	}
	var (
		mu   sync.Mutex // guards left and errs
		each sync.WaitGroup
		errs []error
	)
	for from, list := range byPlace {
		each.Go(func() {
			questions := make([]question, len(list))
			for i, a := range list {
				questions[i] = a.q
			}
			heard, err := from.prober.ask(questions)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				left, errs = append(left, list...), append(errs, err)
				return
			}
			for i, a := range list {
				switch {
				case heard[i] == a.allowed:
				case heard[i]:
					t.Errorf("%s: is heard", a.what)
				default:
					a.q.Timeout = min(2*a.q.Timeout, patient)
					left, errs = append(left, a), append(errs, fmt.Errorf("%s: is not heard", a.what))
				}
			}
		})
	}
	each.Wait()
	return left, errors.Join(errs[:min(len(errs), 10)]...)
}

// selfIn is a copy of this program.
func selfIn(t *testing.T, in func(ctx context.Context, name string, args ...string) *exec.Cmd) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	ok(t, err)
	return in(context.WithoutCancel(t.Context()), self)
}
