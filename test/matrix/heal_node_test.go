//go:build node

package matrix

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// steadyAnswers in a row make traffic that goes on.
const steadyAnswers = 20

// TestSelfHeal breaks the network of n1 while pods talk, and wants it whole again, the traffic back within gapLimit, and to be
// told about it.
func TestSelfHeal(t *testing.T) {
	f := newField(t, "h")
	ok(t, f.n1.awaitRest(t.Context()))
	var report strings.Builder
	defer func() {
		t.Logf("what was broken, when it was repaired, and the longest gap of all the traffic:\n%s", report.String())
	}()
	for _, d := range damages() {
		if !damaged(d) {
			continue // of another lane
		}
		t.Run(d.name, func(t *testing.T) {
			repaired, gap := f.heal(t, d)
			fmt.Fprintf(&report, "%-42s %-8s %s\n", d.name, repaired, gap)
		})
	}
}

// heal does the damage, waits until it is repaired, and returns how long that took and the longest gap of all the streams.
func (f *field) heal(t *testing.T, d damage) (repaired, gap time.Duration) {
	t.Helper()
	s := &sick{field: f}
	var err error
	s.before, err = s.now()
	ok(t, err)
	var streams []*stream
	for _, st := range f.streams(t) {
		if err := st.steady(0); err != nil {
			t.Errorf("before anything was broken: %v", err)
			continue
		}
		streams = append(streams, st)
	}
	read := f.n1.logSize()
	begin := time.Now()
	ok(t, d.do(s))
	if d.undo != nil {
		defer func() { ok(t, d.undo(s)) }()
	}
	if err := await(patience/4, "the node to be as before", func() error {
		now, err := s.now()
		return errors.Join(err, s.before.lacks(now))
	}); err != nil {
		t.Error(err)
	}
	repaired = time.Since(begin).Round(time.Millisecond)
	wanted := make([]int, len(streams)) // of all streams from the same moment on, since they go on beside each other
	for i, st := range streams {
		r, err := st.do("peek")
		ok(t, err)
		wanted[i] = r.Answered + steadyAnswers
	}
	for i, st := range streams {
		if err := st.steady(wanted[i]); err != nil {
			t.Error(err)
		}
		r, err := st.do("peek")
		ok(t, err)
		t.Logf("%s: %d of %d answered, longest gap %s", st, r.Answered, r.Asked, r.Gap.Round(time.Millisecond))
		if r.Gap > gapLimit {
			t.Errorf("%s: traffic stood still for %s, want at most %s", st, r.Gap, gapLimit)
		}
		gap = max(gap, r.Gap.Round(time.Millisecond))
	}
	warned, changes := f.n1.toldSince(read)
	if len(warned) == 0 && (!d.again || len(changes) == 0) {
		t.Errorf("the agent gave no warning; its changes: %q", changes)
	}
	for _, line := range slices.Concat(warned, changes)[:min(len(warned)+len(changes), 3)] {
		t.Logf("told: %s", line)
	}
	return repaired, gap
}

// streams begins what is to go on, until the test ends: from pods to elsewhere, by each protocol and family, and from
// elsewhere to pods.
func (f *field) streams(t *testing.T) (all []*stream) {
	t.Helper()
	for _, p := range f.of {
		if p.broken != nil {
			t.Error(p.broken)
			continue
		}
		for _, s := range []struct {
			from    *peer
			network string
			to      netip.AddrPort
		}{
			{p.a.peer, "tcp", netip.AddrPortFrom(p.remote.addr(ipv4), probePort)},
			{p.a.peer, "udp", netip.AddrPortFrom(p.remote.addr(ipv6), probePort)},
			{p.a.peer, "udp", p.far.frontend(ipv4)},
			{f.n1.host, "tcp", netip.AddrPortFrom(p.a.addr(ipv6), probePort)},
			{f.outside, "udp", netip.AddrPortFrom(p.a.addr(ipv4), probePort)},
			{f.outside, "tcp", netip.AddrPortFrom(f.n1.host.addr(ipv4), p.local.port())},
		} {
			st, err := s.from.stream(s.network, s.to)
			ok(t, err)
			t.Cleanup(func() { _, _ = st.do("stop") })
			all = append(all, st)
		}
	}
	return all
}

// steady waits until the stream has had so many answers in all, the last of them without a miss.
func (s *stream) steady(answers int) error {
	return await(patience, s.String(), func() error {
		now, err := s.do("peek")
		switch {
		case err != nil:
			return err
		case now.Steady < steadyAnswers || now.Answered < answers:
			return fmt.Errorf("%d of %d answered, the last %d without a miss", now.Answered, now.Asked, now.Steady)
		}
		return nil
	})
}

func (n *node) logSize() int64 {
	info, err := os.Stat(n.logFile())
	if err != nil {
		return 0
	}
	return info.Size()
}

// toldSince lists what the agent has said since then: warnings, and changes to the node.
func (n *node) toldSince(size int64) (warned, changes []string) {
	text, err := os.ReadFile(n.logFile())
	if err != nil || int64(len(text)) < size {
		return nil, nil
	}
	for line := range strings.Lines(string(text[size:])) {
		switch {
		case strings.Contains(line, "level=WARN"), strings.Contains(line, "level=ERROR"):
			warned = append(warned, strings.TrimSpace(line))
		case strings.Contains(line, "level=INFO"):
			changes = append(changes, strings.TrimSpace(line))
		}
	}
	return warned, changes
}
