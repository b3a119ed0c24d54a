package takeover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Config is what New needs. Running, Warn, Log and Metrics are required.
type Config struct {
	// First must be closed before anything is removed: nearpath serves then.
	First []<-chan struct{}
	// Running names what shows that kube-proxy still works on this node, "" if nothing does; see the function of that name.
	Running func() (sign string, err error)
	// Unserved says what of the cluster's Services nearpath does not serve though it should: kube-proxy may, so nothing is
	// removed then. nil, or an answer of nil: all is served.
	Unserved func() error
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
	// HostRoot is the node's root directory; "" if it is not to be seen. The lock of iptables must be the node's.
	HostRoot string
	// Every is how often the node is looked at while there is something to do; 0 means 5 seconds.
	Every time.Duration
	// Absent is for how long nothing must have shown kube-proxy; 0 means a minute. Its DaemonSet may be about to start a new
	// pod, and it may start again after a crash.
	Absent time.Duration
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
	// restFactor is how much less often a node is looked at where nothing can be done: iptables of the older kind must be asked
	// by a program, and all of conntrack be read.
	restFactor    = 12
	defaultAbsent = time.Minute
	// mostTries is how often the rules are removed without full success before somebody must be writing them.
	mostTries = 5
)

// A Task takes the node over and then watches that it stays so. It is ready from the start: pods and Services do not wait
// for it.
type Task struct {
	cfg   Config
	ready chan struct{}
	left  prometheus.Gauge

	translated func() (map[connection]bool, error)
	now        func() time.Time

	said    map[string]string // the last message by reason
	absent  time.Time         // since when nothing has shown kube-proxy, zero: something did
	removed bool              // what decided about new connections has been removed
	tries   int               // of removing it
	stopped bool              // the rules came back
	old     map[connection]bool
	pause   time.Duration // until the next look
	drained time.Duration // the pause between looks at conntrack
}

// New makes the Task; nothing is looked at before Run.
func New(cfg Config) (*Task, error) {
	if cfg.Every == 0 {
		cfg.Every = defaultEvery
	}
	if cfg.Absent == 0 {
		cfg.Absent = defaultAbsent
	}
	t := &Task{
		cfg: cfg, ready: make(chan struct{}), said: map[string]string{}, translated: translated, now: time.Now,
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
		t.rest(ctx)
		if ctx.Err() != nil {
			return nil
		}
	}
	<-ctx.Done()
	return nil
}

// rest waits for the next look. Datagrams are seen to as often as ever: conntrack is read for them only if there are such.
func (t *Task) rest(ctx context.Context) {
	for left := t.pause; left > 0; left -= t.cfg.Every {
		select {
		case <-ctx.Done():
			return
		case <-time.After(t.cfg.Every):
		}
		if err := t.reconcile(); err != nil {
			t.cfg.Log.Warn("take over from kube-proxy", "err", err)
		}
	}
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
	noLock bool // or, without a lock that the node's other programs hold, be changed
	ipvs   bool
}

func readLeftovers(ctx context.Context) (l leftovers, err error) {
	if l.nft, err = readNFTables(); err != nil {
		return l, err
	}
	l.legacy, l.noTool, err = readLegacy(ctx)
	if _, lookup := net.InterfaceByName("kube-ipvs0"); lookup == nil {
		l.ipvs = true
	}
	return l, err
}

func (t *Task) leftovers(ctx context.Context) (leftovers, error) {
	l, err := readLeftovers(ctx)
	l.noLock = len(l.legacy) > 0 && (t.cfg.HostRoot == "" || !sharesLock(t.cfg.HostRoot, xtablesLock))
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
		if p := planRemoval(r, draining); !p.empty() && !l.noLock {
			legacy = append(legacy, p)
		}
	}
	return nft, legacy
}

// programmed reports whether there is what only a kube-proxy that works makes.
func (l leftovers) programmed() bool {
	return len(l.nft.native) > 0 || anyProgrammed(l.nft.compat) || !l.noLock && anyProgrammed(l.legacy)
}

func anyProgrammed(list []ruleset) bool {
	return slices.ContainsFunc(list, func(r ruleset) bool { return r.programmed() && !planRemoval(r, true).empty() })
}

// empty reports whether there is nothing to remove, to wait for or to tell of.
func (l leftovers) empty() bool {
	nft, legacy := l.removals(false)
	return len(nft)+len(legacy)+len(l.nft.native) == 0 && !l.nft.keeper && !l.noTool && !l.ipvs && !l.noLock
}

// Programmed reports whether rules are there, in the calling thread's network namespace, by which a kube-proxy serves.
func Programmed(ctx context.Context) (bool, error) {
	l, err := readLeftovers(ctx)
	return err == nil && (l.programmed() || l.ipvs), err
}

// look is one round. What costs is done only after what is cheap has shown that there is something to do.
func (t *Task) look(ctx context.Context) error {
	t.pause = t.cfg.Every * restFactor
	if t.stopped {
		return nil
	}
	if gone, err := t.gone(); err != nil || !gone {
		return err
	}
	l, err := t.leftovers(ctx)
	if err != nil || l.empty() {
		return err
	}
	t.report(l)
	if l.ipvs {
		return nil // its virtual servers need the rules
	}
	if (t.removed || t.tries >= mostTries) && l.programmed() {
		t.stopped = true
		t.warn(ReasonReturned, "kube-proxy's rules came back after nearpath removed them: somebody writes them, most likely a kube-proxy that cannot be seen from here; they are left alone until the agent starts anew")
		return nil
	}
	nft, legacy := l.removals(true)
	if len(nft)+len(legacy)+len(l.nft.native) == 0 {
		return t.drain(ctx, l)
	}
	if !t.served() {
		return nil
	}
	if err := t.remove(ctx, l.nft.native, nft, legacy); err != nil {
		return err
	}
	if l, err = t.leftovers(ctx); err != nil {
		return err
	}
	return t.drain(ctx, l)
}

// served reports whether nearpath serves every Service, and tells when it does not.
func (t *Task) served() bool {
	if t.cfg.Unserved == nil {
		return true
	}
	why := t.cfg.Unserved()
	if why == nil {
		return true
	}
	first, _, more := strings.Cut(why.Error(), "\n")
	if more {
		first += ", and more"
	}
	t.warn(ReasonLeft, "kube-proxy's rules stay until nearpath serves every Service: "+first)
	return false
}

// gone reports whether kube-proxy has not been seen for long enough. When it is there, a take-over that was before is over:
// somebody has gone back.
func (t *Task) gone() (bool, error) {
	sign, err := t.cfg.Running()
	if err != nil {
		return false, err
	}
	if sign != "" {
		t.absent, t.removed, t.tries = time.Time{}, false, 0
		t.warn(ReasonRunning, sign+", beside nearpath, which serves the Services: nothing of kube-proxy's is removed meanwhile; delete its DaemonSet, or keep it off this node")
		return false, nil
	}
	now := t.now()
	if t.absent.IsZero() {
		t.absent = now
	}
	if now.Sub(t.absent) < t.cfg.Absent {
		t.pause = t.cfg.Every
		return false, nil
	}
	return true, nil
}

// report tells what nearpath cannot remove.
func (t *Task) report(l leftovers) {
	switch {
	case l.ipvs:
		t.warn(ReasonLeft, "kube-proxy of mode ipvs was here (link kube-ipvs0), whose virtual servers take connections before nearpath does: run kube-proxy --cleanup on the node")
	case l.noTool:
		t.warn(ReasonLeft, "there are iptables rules of the legacy kind and no iptables-legacy that could read them: if they are kube-proxy's, run kube-proxy --cleanup on the node")
	case l.noLock && anyProgrammed(l.legacy):
		t.warn(ReasonLeft, xtablesLock+" here is not the node's, by which programs that change iptables rules of the legacy kind wait for each other: they are left alone; mount the node's there, and name its root in network.hostRoot")
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

// remove takes away what decides about new connections. What was translated before and meanwhile is what must be waited for.
func (t *Task) remove(ctx context.Context, native []*nftables.Table, nft, legacy []removal) error {
	if err := makeKeeper(); err != nil {
		return err
	}
	if t.old == nil {
		t.old = map[connection]bool{}
	}
	if err := t.addTranslated(); err != nil {
		return err
	}
	t.cfg.Log.Info("kube-proxy's rules are removed", "connections", len(t.old))
	t.tries++
	t.drained = 0
	err := apply(ctx, native, nft, legacy)
	t.removed = err == nil
	return errors.Join(err, t.addTranslated())
}

func (t *Task) addTranslated() error {
	now, err := t.translated()
	maps.Copy(t.old, now)
	return err
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
func (t *Task) drain(ctx context.Context, l leftovers) error {
	nft, legacy := l.removals(false)
	if !l.nft.keeper && len(nft)+len(legacy) == 0 {
		return nil
	}
	now, err := t.translated()
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
		t.drained = min(max(2*t.drained, t.cfg.Every), t.pause)
		t.pause = t.drained
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
	if t.cfg.Serves == nil || len(t.old) == 0 {
		return nil
	}
	serves := t.cfg.Serves()
	err := errors.Join(t.endDatagrams(serves, false), t.endDatagrams(serves, true))
	if err != nil {
		return fmt.Errorf("reconcile conntrack: %w", err)
	}
	return nil
}

// endDatagrams is reconcile for one family.
func (t *Task) endDatagrams(serves func(frontend, backend netip.AddrPort) bool, v6 bool) error {
	started := time.Now()
	gone := map[connection]bool{}
	for c := range t.old {
		if c.protocol == unix.IPPROTO_UDP && c.frontend.Addr().Is6() == v6 && !serves(c.frontend, c.backend) {
			gone[c] = true
		}
	}
	n, err := forget(gone)
	if err == nil {
		maps.DeleteFunc(t.old, func(c connection, _ bool) bool { return gone[c] })
	}
	if t.cfg.Reconciled != nil {
		t.cfg.Reconciled(v6, time.Since(started), n)
	}
	if n > 0 {
		t.cfg.Log.Info("flows of datagrams to endpoints that are gone were ended", "flows", n)
	}
	return err
}
