//go:build node

package dns

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// queriesPerSecond is of all together.
const queriesPerSecond = 5000

// node is the name of the node among those who ask.
const node = "node"

// A phase is what happens to the node's DNS for a while.
type phase struct {
	name       string
	began, end time.Time
	// coldMayFail says that names that nobody holds need somebody who is not there.
	coldMayFail bool
	// unheard says that the agent does not listen, and was not asked whether it may go.
	unheard bool
	// stale says that nobody knows better than the cache, which first waits a while for somebody who does. Programs have been told
	// before they were asked.
	stale bool
}

// TestNeverDark: names of the cluster and names that are asked for again and again are answered, each time, with the right
// answer and as fast, whatever happens to the agent and to everybody behind it.
func TestNeverDark(t *testing.T) {
	w := newWorld(t)
	outside := w.startServer(t, 53)
	clusterDNS := w.startServer(t, clusterDNSPort)
	w.startAgent(t)
	w.installCNI(t)
	names := slices.Sorted(maps.Keys(pods))
	each := queriesPerSecond / (len(names) + 1)
	for _, name := range names {
		w.startLoad(t, name, pods[name].server, each, w.runPod(t, name, pods[name]).Command)
	}
	w.startLoad(t, node, kubeDNS[0], each, w.node.Command)

	var phases []phase
	during := func(name string, do func(*phase)) {
		p := phase{name: name, began: time.Now()}
		do(&p)
		p.end = time.Now()
		phases = append(phases, p)
	}
	// Every name is asked for hundreds of times.
	const quiet = 2 * time.Second
	time.Sleep(quiet)
	during("nothing happens", func(*phase) { time.Sleep(quiet) })
	during("the agent is killed, and gone for a while", func(p *phase) {
		p.coldMayFail, p.unheard = true, true
		w.agent.Kill()
		time.Sleep(2 * hotTTL * time.Second)
		w.startAgent(t)
		time.Sleep(quiet)
	})
	during("the agent is restarted", func(p *phase) {
		p.coldMayFail, p.unheard = true, true
		ok(t, w.stopAgent())
		w.startAgent(t)
		time.Sleep(quiet)
	})
	during("the Corefile changes", func(*phase) {
		text, err := os.ReadFile(w.config())
		ok(t, err)
		ok(t, os.WriteFile(w.config(), []byte(strings.Replace(string(text), "dns: {", "dns: {cacheSize: 20000, ", 1)), 0o644))
		before := len(w.log())
		await(t, "another Corefile", func() error {
			if !strings.Contains(w.log()[before:], "serves by another Corefile") {
				return fmt.Errorf("the old one is served")
			}
			return nil
		})
		time.Sleep(quiet)
	})
	during("nobody is behind the agent, and its objects are away", func(p *phase) {
		p.coldMayFail, p.stale = true, true
		away := w.manifests + ".away"
		ok(t, os.Rename(w.manifests, away))
		outside.Kill()
		clusterDNS.Kill()
		time.Sleep(2 * hotTTL * time.Second)
		w.startServer(t, 53)
		w.startServer(t, clusterDNSPort)
		ok(t, os.Rename(away, w.manifests))
		time.Sleep(quiet)
	})
	judgeAll(t, phases, w.records(t))
}

// judgeAll prints a line for each phase and who asked, and fails for what must not be.
func judgeAll(t *testing.T, phases []phase, of map[string][]record) {
	t.Helper()
	quiet := map[string]time.Duration{}
	for i, p := range phases {
		for _, name := range slices.Sorted(maps.Keys(of)) {
			s := sum(of[name], p, name == node)
			t.Logf("%-55s %-18s %s", p.name, name, s)
			if i == 0 {
				quiet[name] = s.quantile(0.99)
			}
			if s.bad > 0 || s.overflowed > len(s.held)/overflowAtMost {
				t.Errorf("%s, from %s: %d queries were not answered that had to be, and %d lost", p.name, name, s.bad, s.overflowed)
			}
			if added := s.quantile(0.99) - quiet[name]; added > addedAtMost && (!p.stale || name != node) { // the line above has the figure
				t.Errorf("%s, from %s: the 99th percentile is %s longer than before, at most %s", p.name, name, added, addedAtMost)
			}
		}
	}
}

// addedAtMost is by how much the slowest hundredth of the answers may be slower. On a machine to itself it is less than 5 ms; here
// an agent starts on the processors of those who ask, so the bound is that of a query that had to be asked again.
const addedAtMost = 150 * time.Millisecond

// overflowAtMost is of how many answers one may be lost that goes through a socket's queue, which overflows when the machine
// gives its reader no time.
const overflowAtMost = 500

// lateAtMost is by how much who asks may be late by his own pace, and still measure somebody else's.
const lateAtMost = 20 * time.Millisecond

// underWay is how long a query that is answered may have been under way when a phase begins: it is the phase's.
const underWay = 200 * time.Millisecond

// A sums is what became of the queries of a phase.
type sums struct {
	held  []uint32 // how long they took, microseconds, sorted
	count [3][5]int
	bad   int // what must not be
	// overflowed is what may be if it is little: lost, and nothing that the kernel answers pods from what it holds.
	overflowed int
}

// excused says what may be. Programs answer pods from what they hold, and no packet of theirs gets to where nobody listens. The node's
// own processes are answered by the agent alone: what it had not answered yet is lost with it, and so is what is asked by a
// socket that asked it before, until it listens again; nothing of it is refused.
func (p phase) excused(r record, ofNode bool) bool {
	switch {
	case r.Outcome == answered:
		return true
	case r.Class == cold && p.coldMayFail:
		return r.Outcome == lost || r.Outcome == failed
	}
	return ofNode && p.unheard && r.Outcome == lost
}

func sum(all []record, p phase, ofNode bool) (s sums) {
	for _, r := range all {
		if began := time.Unix(0, r.Began).Add(underWay); began.Before(p.began) || !began.Before(p.end) {
			continue
		}
		s.count[r.Class][r.Outcome]++
		switch {
		case p.excused(r, ofNode):
		case r.Outcome == lost && (ofNode || r.Class == cold):
			s.overflowed++
		default:
			s.bad++
		}
		if r.Class != cold && r.Outcome == answered && !r.Late {
			s.held = append(s.held, r.Took)
		}
	}
	slices.Sort(s.held)
	return s
}

func (s sums) quantile(q float64) time.Duration {
	if len(s.held) == 0 {
		return 0
	}
	return time.Duration(s.held[int(q*float64(len(s.held)-1))]) * time.Microsecond
}

func (s sums) String() string {
	var b strings.Builder
	for c, name := range []string{"cluster", "hot", "cold"} {
		fmt.Fprintf(&b, " %s", name)
		for o, n := range s.count[c] {
			if n > 0 {
				fmt.Fprintf(&b, " %d %s", n, outcome(o))
			}
		}
		b.WriteByte(';')
	}
	fmt.Fprintf(&b, " held: p50 %s, p99 %s, p99.9 %s, longest %s", s.quantile(0.5), s.quantile(0.99), s.quantile(0.999), s.quantile(1))
	return b.String()
}
