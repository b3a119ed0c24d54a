package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/cni"
)

// podLinksEvery is how long a pod's link may be without its program, and with that the pod without its way out. Looking
// is simpler than events: they would have to be followed in every exclusive pod's namespace.
const podLinksEvery = 400 * time.Millisecond

// slavesEvery is in how many looks those at pods' ipvlan links are taken: such pods may not change their links, and many share a node.
const slavesEvery = 12

// podLinks is a Task that attaches the programs of pods' links again when somebody else has removed them. It knows the pods
// that this process has told the datapath of, which are all once the collector of pods has looked for the first time.
type podLinks struct {
	programs linkPrograms
	report   func(reason, message string)
	log      *slog.Logger
	ready    chan struct{}

	mu      sync.Mutex // guards what follows
	entries map[netip.Addr]cni.PodEntry

	// What follows is Run's.
	failed string // the failure that was logged last
	looks  int
}

func newPodLinks(programs linkPrograms, report func(reason, message string), log *slog.Logger) *podLinks {
	l := &podLinks{programs: programs, report: report, log: log, ready: make(chan struct{}), entries: map[netip.Addr]cni.PodEntry{}}
	close(l.ready)
	return l
}

func (l *podLinks) String() string         { return "programs of pods' links" }
func (l *podLinks) Ready() <-chan struct{} { return l.ready }

func (l *podLinks) remember(e cni.PodEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(e.Addrs) > 0 {
		l.entries[e.Addrs[0]] = e
	}
}

func (l *podLinks) forget(e cni.PodEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(e.Addrs) > 0 {
		delete(l.entries, e.Addrs[0])
	}
}

func (l *podLinks) Run(ctx context.Context) error {
	tick := time.NewTicker(podLinksEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			l.look()
		}
	}
}

// all are the pods whose links have programs.
func (l *podLinks) all() []cni.PodEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.entries))
}

// look puts back what is missing. What is gone with its link, or cannot be told, is left to the collector of pods.
func (l *podLinks) look() {
	slaves := l.looks%slavesEvery == 0
	l.looks++
	var restored []netip.Addr
	var errs []error
	for _, e := range l.all() {
		if e.Datapath == cni.IPVlan && !slaves {
			continue
		}
		put := false
		err := eachLink(e, func(role bpf.Role, index int) error {
			have, err := l.programs.LinkAttached(role, index)
			if have || err != nil || !l.knows(e) {
				return err
			}
			put = true
			return l.programs.AttachLink(role, index, e.Addrs...)
		})
		switch {
		case err != nil && l.knows(e) && !isGone(err):
			errs = append(errs, fmt.Errorf("pod at %v: %w", e.Addrs, err))
		case err == nil && put:
			restored = append(restored, e.Addrs[0])
		}
	}
	if len(restored) > 0 {
		slices.SortFunc(restored, netip.Addr.Compare)
		message := fmt.Sprintf("programs were removed from the links of %d pods, and are back: %v", len(restored), restored[:min(len(restored), 10)])
		l.log.Warn(message)
		l.report("PodProgramsRestored", message)
	}
	l.complain(errors.Join(errs...))
}

// knows says whether the pod is still there as it was: its DEL may have come meanwhile.
func (l *podLinks) knows(e cni.PodEntry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	have, ok := l.entries[e.Addrs[0]]
	return ok && have.Link == e.Link && have.NetNS == e.NetNS
}

// complain logs a failure when it is another one than the last time.
func (l *podLinks) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != l.failed {
		l.log.Warn("programs of pods' links cannot be attached", "err", err)
	}
	l.failed = text
}
