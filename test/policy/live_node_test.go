//go:build node

package policy

import (
	"errors"
	"sync"
	"testing"
	"time"
)

// patient is how long what is allowed may take: nothing gets lost here but by policy.
const patient = 20 * time.Second

const isolateX = "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: v}}}]}]}"

// one asks one question.
func (p *place) one(t *testing.T, q question) bool {
	t.Helper()
	heard, err := p.prober.ask([]question{q})
	ok(t, err)
	return heard[0]
}

// TestLive changes policies under connections and ends agents under traffic.
func TestLive(t *testing.T) {
	w := newWorld(t)
	t.Run("running connections", w.testRunning)
	t.Run("no agent", w.testNoAgent)
	t.Run("first packets", w.testFirst)
}

// testRunning is reference rows S28 and S29.
func (w *world) testRunning(t *testing.T) {
	xa, va, za := w.find("x/a"), w.find("v/a"), w.find("z/a")
	w.enforce(t, "")
	held := func(to *place, timeout time.Duration) question {
		q := to.question(kind{network: "tcp", port: ports[0]}, 0)
		q.Held, q.Timeout = true, timeout
		return q
	}
	in, kept, out := held(xa, 2*denied), held(xa, patient), held(za, patient)
	await(t, "connections, where there is no policy", func() error {
		if !za.one(t, in) || !va.one(t, kept) || !xa.one(t, out) {
			return errors.New("one of them is not answered")
		}
		return nil
	})
	w.enforce(t, v1("x", "p", isolateX))
	await(t, "the end of a running connection", func() error {
		if za.one(t, in) {
			return errors.New("z/a still talks to x/a")
		}
		return nil
	})
	if !va.one(t, kept) {
		t.Error("v/a, which is allowed, is no longer heard on its connection to x/a")
	}
	if !xa.one(t, out) {
		t.Error("x/a, which is isolated now, does not hear what z/a answers on a connection of before")
	}
	w.enforce(t, "")
	await(t, "a running connection to go on", func() error {
		if !za.one(t, in) {
			return errors.New("z/a is not heard")
		}
		return nil
	})
}

// testNoAgent is reference rows S29 and S32: neither the end of an agent nor its start changes what is enforced.
func (w *world) testNoAgent(t *testing.T) {
	xa, va, za := w.find("x/a"), w.find("v/a"), w.find("z/a")
	w.enforce(t, v1("x", "p", isolateX))
	datagram := kind{network: "udp", port: ports[0]}
	good, bad := xa.question(datagram, 0), xa.question(datagram, 1)
	good.Timeout, bad.Timeout = patient, denied/10
	await(t, "the policy", func() error {
		if za.one(t, bad) || !va.one(t, good) {
			return errors.New("not as it is to be")
		}
		return nil
	})
	var (
		all          sync.WaitGroup
		stop         = make(chan struct{})
		asks, denies int
	)
	keep := func(from *place, q question, allowed bool, n *int) {
		for {
			select {
			case <-stop:
				return
			default:
			}
			heard, err := from.prober.ask([]question{q})
			if *n++; err != nil || heard[0] != allowed {
				t.Errorf("question %d of %s: heard %t, %v", *n, from, heard, err)
				return
			}
		}
	}
	all.Go(func() { keep(va, good, true, &asks) })
	all.Go(func() { keep(za, bad, false, &denies) })
	n1 := w.nodes["n1"]
	for range 2 {
		n1.KillAgent()
		ok(t, n1.StartAgent(t.Context()))
	}
	close(stop)
	all.Wait()
	t.Logf("%d datagrams that are allowed were answered, %d that are not were not, while the agent was killed and started twice", asks, denies)
}
