//go:build node

package policy

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nearpath/nearpath/test/agentlab"
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
	if !za.one(t, in) || !va.one(t, kept) || !xa.one(t, out) {
		t.Fatal("connections cannot be made where there is no policy")
	}
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

// podsEnv is how many pods send before they may, 40 by default.
const podsEnv = "NEARPATH_POLICY_PODS"

// testFirst is reference row S26: pods that send as soon as they have a network, where nothing of theirs is allowed.
func (w *world) testFirst(t *testing.T) {
	w.enforce(t, v1("x", "deny", "{podSelector: {}, policyTypes: [Egress]}"))
	pods := 40
	if text := os.Getenv(podsEnv); text != "" {
		var err error
		pods, err = strconv.Atoi(text)
		ok(t, err)
	}
	w.later = []*place{{namespace: "z", name: "allowed", node: "n1"}}
	for i := range pods {
		w.later = append(w.later, &place{namespace: "x", name: fmt.Sprintf("first-%d", i), node: "n1"})
	}
	w.writeObjects(t)
	q := w.outside.question(kind{network: "udp", port: ports[0]}, 0)
	q.First, q.Timeout = true, 20*time.Millisecond
	var (
		lanes sync.WaitGroup
		mu    sync.Mutex // guards heard
		heard int
	)
	const side = 4
	for lane := range side {
		lanes.Go(func() {
			for i := lane; i < pods; i += side {
				got, err := w.first(t, fmt.Sprintf("first-%d", i), "x", q)
				mu.Lock()
				if err != nil {
					t.Errorf("pod %d: %v", i, err)
				}
				if got {
					heard++
				}
				mu.Unlock()
			}
		})
	}
	lanes.Wait()
	t.Logf("of %d pods that sent as soon as they could, %d were heard", pods, heard)
	if heard > 0 {
		t.Error("packets went out before the policy was there")
	}
	// Whoever may is heard by the same question.
	q.Timeout = patient
	if got, err := w.first(t, "allowed", "z", q); err != nil || !got {
		t.Errorf("a pod that is not isolated is heard: %t, %v", got, err)
	}
}

// first makes a pod that asks before it has a network, and returns whether it was heard.
func (w *world) first(t *testing.T, name, namespace string, q question) (bool, error) {
	pod, err := w.nodes["n1"].NewPod(t.Context(), agentlab.PodSpec{Namespace: namespace, Name: name})
	if err != nil {
		return false, err
	}
	p := startProber(t, w.lab, selfIn(t, pod.Command), roleClient)
	type outcome struct {
		heard []bool
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		heard, err := p.ask([]question{q})
		done <- outcome{heard, err}
	}()
	if err := pod.Add(t.Context()); err != nil {
		return false, err
	}
	o := <-done
	if o.err != nil {
		return false, o.err
	}
	return o.heard[0], pod.Delete(t.Context())
}
