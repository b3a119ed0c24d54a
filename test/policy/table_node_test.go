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
	"time"
)

// denied is how long nothing must be heard. Nothing waits for it that is allowed: who is not heard in this time is asked again.
const denied = 300 * time.Millisecond

// A pair is one question of the table.
type pair struct {
	from, to *place
	network  string
	port     uint16
	family   int // 0: IPv4, 1: IPv6
}

func (p pair) String() string {
	return fmt.Sprintf("%s -> %s %s %d IPv%d", p.from, p.to, p.network, p.port, 4+2*p.family)
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
func (w *world) check(t *testing.T, allowed func(pair) bool, extras []extra) {
	t.Helper()
	var left []asked
	for _, from := range w.places() {
		for _, to := range w.places() {
			for family := range 2 {
				for _, p := range []pair{{from, to, "tcp", 80, family}, {from, to, "tcp", 81, family}, {from, to, "udp", 80, family}} {
					if !from.isPod() && !to.isPod() {
						continue
					}
					left = append(left, asked{from, to.question(p.network, p.port, family), p.String(), p.always() || allowed(p)})
				}
			}
		}
	}
	for _, e := range extras {
		left = append(left, asked{e.from, question{Network: "tcp", To: e.to, Timeout: denied}, fmt.Sprintf("%s -> %s", e.from, e.to), e.allowed})
	}
	total := len(left)
	await(t, "what is allowed", func() error {
		var err error
		left, err = ask(left)
		return err
	})
	t.Logf("%d pairs", total)
}

// An asked is one question, and whether it is to be heard.
type asked struct {
	from    *place
	q       question
	what    string
	allowed bool
}

// ask asks them all. Left is what was not as it is to be. Those are asked again: the canaries may hear of a policy a
// moment before others.
func ask(all []asked) (left []asked, err error) {
	byPlace := map[*place][]asked{}
	for _, a := range all {
		byPlace[a.from] = append(byPlace[a.from], a)
	}
	var (
		mu   sync.Mutex
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
				errs = append(errs, err)
				return
			}
			for i, a := range list {
				if heard[i] == a.allowed {
					continue
				}
				left = append(left, a)
				errs = append(errs, fmt.Errorf("%s: heard is %t", a.what, heard[i]))
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
