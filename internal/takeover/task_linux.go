package takeover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Config is what New needs. All fields but First and Serves are required.
type Config struct {
	// First must be closed before anything is removed: nearpath serves then.
	First []<-chan struct{}
	// Running reports whether kube-proxy still works on this node, see the function of that name.
	Running func() (bool, error)
	// Serves returns a function that tells whether a backend serves datagrams sent to a frontend, as of now; nil: nobody
	// knows, and all do.
	Serves func() func(frontend, backend netip.AddrPort) bool
	// Reconciled hears of every look for a family's datagrams to endpoints that are gone, by how long it took and how many
	// entries of conntrack it deleted; nil: nobody does.
	Reconciled func(v6 bool, took time.Duration, deleted int)
	// Warn tells what a user can put right.
	Warn    func(reason, message string)
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Every is how often the node is looked at; 0 means 5 seconds.
	Every time.Duration
}

// Reasons of events.
const (
	ReasonRunning  = "KubeProxyRunning"
	ReasonReturned = "KubeProxyRulesReturned"
	ReasonLeft     = "KubeProxyRulesLeft"
	reasonFailed   = "KubeProxyTakeOverFailed"
)

const (
	defaultEvery = 5 * time.Second
	// restFactor is how much less often a node is looked at that has nothing of kube-proxy's: iptables of the older kind must
	// be asked by a program.
	restFactor = 12
)

// A Task takes the node over and then watches that it stays so. It is ready from the start: pods and Services do not wait
// for it.
type Task struct {
	cfg   Config
	ready chan struct{}
	left  prometheus.Gauge

	said    map[string]string // the last message by reason
	removed bool              // what decided about new connections has been removed
	stopped bool              // the rules came back
	clean   bool              // nothing of kube-proxy was there
	old     map[connection]bool
}

// New makes the Task; nothing is looked at before Run.
func New(cfg Config) (*Task, error) {
	if cfg.Every == 0 {
		cfg.Every = defaultEvery
	}
	t := &Task{
		cfg: cfg, ready: make(chan struct{}), said: map[string]string{},
		left: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearpath_takeover_connections", Help: "Connections that kube-proxy's rules translated and that are not over yet.",
		}),
	}
	close(t.ready)
	return t, cfg.Metrics.Register(t.left)
}

func (t *Task) String() string { return "take-over from kube-proxy" }

// Ready is closed.
func (t *Task) Ready() <-chan struct{} { return t.ready }

// Run works until ctx ends.
func (t *Task) Run(ctx context.Context) error {
	for _, first := range t.cfg.First {
		select {
		case <-first:
		case <-ctx.Done():
			return nil
		}
	}
	for !t.stopped {
		if err := t.look(ctx); err != nil && ctx.Err() == nil {
			t.cfg.Log.Warn("take over from kube-proxy", "err", err)
			t.warn(reasonFailed, err.Error()+"; it is tried again")
		}
		pause := t.cfg.Every
		if t.clean {
			pause *= restFactor
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
	<-ctx.Done()
	return nil
}

// warn says each thing once.
func (t *Task) warn(reason, message string) {
	if t.said[reason] != message {
		t.said[reason] = message
		t.cfg.Warn(reason, message)
	}
}

// leftovers are what kube-proxy left on the node.
type leftovers struct {
	nft    nfTables
	legacy []ruleset
	noTool bool // there are tables of the older interface that cannot be read
	ipvs   bool
}

func readLeftovers(ctx context.Context) (l leftovers, err error) {
	if l.nft, err = readNFTables(); err != nil {
		return l, err
	}
	l.legacy, err = readLegacy(ctx)
	if errors.Is(err, errNoTool) {
		l.noTool, err = true, nil
	}
	if _, lookup := net.InterfaceByName("kube-ipvs0"); lookup == nil {
		l.ipvs = true
	}
	return l, err
}

// removals are what is to go now.
func (l leftovers) removals(draining bool) (nft, legacy []removal) {
	for _, r := range l.nft.compat {
		if p := planRemoval(r, draining); !p.empty() {
			nft = append(nft, p)
		}
	}
	for _, r := range l.legacy {
		if p := planRemoval(r, draining); !p.empty() {
			legacy = append(legacy, p)
		}
	}
	return nft, legacy
}

// programmed reports whether there is what only a kube-proxy that works makes.
func (l leftovers) programmed() bool {
	for _, list := range [][]ruleset{l.nft.compat, l.legacy} {
		for _, r := range list {
			if r.programmed() && !planRemoval(r, true).empty() {
				return true
			}
		}
	}
	return len(l.nft.native) > 0
}

// empty reports whether there is nothing to remove, to wait for or to tell of.
func (l leftovers) empty() bool {
	nft, legacy := l.removals(false)
	return len(nft)+len(legacy)+len(l.nft.native) == 0 && !l.nft.keeper && !l.noTool && !l.ipvs
}

// Programmed reports whether rules are there, in the calling thread's network namespace, by which a kube-proxy serves.
func Programmed(ctx context.Context) (bool, error) {
	l, err := readLeftovers(ctx)
	return err == nil && (l.programmed() || l.ipvs), err
}

// look is one round.
func (t *Task) look(ctx context.Context) error {
	if t.stopped {
		return nil
	}
	l, err := readLeftovers(ctx)
	if err != nil {
		return err
	}
	if t.clean = l.empty(); t.clean {
		return nil
	}
	if running, err := t.cfg.Running(); err != nil {
		return err
	} else if running {
		t.warn(ReasonRunning, "kube-proxy runs on this node beside nearpath, which serves the Services: nothing of it is removed while it runs; delete its DaemonSet, or keep it off this node")
		return nil
	}
	t.report(l)
	if l.ipvs {
		return nil // its virtual servers need the rules
	}
	if t.removed && l.programmed() {
		t.stopped = true
		t.warn(ReasonReturned, "kube-proxy's rules came back after nearpath removed them: somebody writes them, most likely a kube-proxy that cannot be seen from here; they are left alone until the agent starts anew")
		return nil
	}
	if err := t.remove(ctx, l); err != nil {
		return err
	}
	return t.drain(ctx)
}

// report tells what nearpath cannot remove.
func (t *Task) report(l leftovers) {
	switch {
	case l.ipvs:
		t.warn(ReasonLeft, "kube-proxy of mode ipvs was here (link kube-ipvs0), whose virtual servers take connections before nearpath does: run kube-proxy --cleanup on the node")
	case l.noTool:
		t.warn(ReasonLeft, "there are iptables rules of the legacy kind and no iptables-legacy that could read them: if they are kube-proxy's, run kube-proxy --cleanup on the node")
	}
	var kept []string
	for _, list := range [][]ruleset{l.nft.compat, l.legacy} {
		for _, r := range list {
			for _, name := range planRemoval(r, false).kept {
				kept = append(kept, r.name+"/"+name)
			}
			if _, forward := r.chains[forwardChain]; forward && r.chains["FORWARD"].drops {
				kept = append(kept, r.name+"/"+forwardChain+" (the policy of FORWARD is DROP)")
			}
		}
	}
	if len(kept) > 0 {
		t.warn(ReasonLeft, "chains of kube-proxy stay because others use them: "+strings.Join(kept, ", "))
	}
}

// remove takes away what decides about new connections. What is translated at that moment is what must be waited for.
func (t *Task) remove(ctx context.Context, l leftovers) error {
	nft, legacy := l.removals(true)
	if len(nft)+len(legacy)+len(l.nft.native) == 0 {
		return nil
	}
	if err := makeKeeper(); err != nil {
		return err
	}
	var err error
	if t.old, err = translated(); err != nil {
		return err
	}
	t.cfg.Log.Info("kube-proxy's rules are removed", "connections", len(t.old))
	if err := apply(ctx, l.nft.native, nft, legacy); err != nil {
		return err
	}
	t.removed = true
	return nil
}

func apply(ctx context.Context, native []*nftables.Table, nft, legacy []removal) error {
	var errs []error
	if len(native) > 0 {
		errs = append(errs, deleteNative(native))
	}
	for _, r := range nft {
		errs = append(errs, deleteCompat(r))
	}
	for _, r := range legacy {
		errs = append(errs, deleteLegacy(ctx, r))
	}
	return errors.Join(errs...)
}

// drain waits for the connections that kube-proxy translated, and then removes the rest. An agent that finds the keeper of
// an earlier one waits for whatever is translated now: which of it was kube-proxy's nobody knows any more.
func (t *Task) drain(ctx context.Context) error {
	l, err := readLeftovers(ctx)
	if err != nil {
		return err
	}
	nft, legacy := l.removals(false)
	if !l.nft.keeper && len(nft)+len(legacy) == 0 {
		return nil
	}
	now, err := translated()
	if err != nil {
		return err
	}
	if t.old == nil {
		t.old = now
	}
	maps.DeleteFunc(t.old, func(c connection, _ bool) bool { return !now[c] })
	if err := t.reconcile(); err != nil {
		return err
	}
	t.left.Set(float64(len(t.old)))
	if len(t.old) > 0 {
		return nil
	}
	if err := apply(ctx, nil, nft, legacy); err != nil {
		return err
	}
	if err := RemoveKeeper(); err != nil {
		return err
	}
	t.old = nil
	t.cfg.Log.Info("kube-proxy's last connections are over, and nothing of it is left")
	return nil
}

// reconcile ends flows of datagrams to endpoints that serve no more, as kube-proxy would (pkg/proxy/conntrack/cleanup.go):
// their client goes on sending, and the entry would live as long as it does.
func (t *Task) reconcile() error {
	if t.cfg.Serves == nil {
		return nil
	}
	var errs []error
	serves := t.cfg.Serves()
	for _, v6 := range []bool{false, true} {
		started := time.Now()
		gone := map[connection]bool{}
		for c := range t.old {
			if c.protocol == unix.IPPROTO_UDP && c.frontend.Addr().Is6() == v6 && !serves(c.frontend, c.backend) {
				gone[c] = true
			}
		}
		n, err := forget(gone)
		if t.cfg.Reconciled != nil {
			t.cfg.Reconciled(v6, time.Since(started), n)
		}
		if n > 0 {
			t.cfg.Log.Info("flows of datagrams to endpoints that are gone were ended", "flows", n)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("reconcile conntrack: %w", err)
	}
	return nil
}
