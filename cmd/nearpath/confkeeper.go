package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	confFirst = 200 * time.Millisecond // how often the keeper looks until the configuration is written
	confEvery = 2 * time.Second        // and from then on
	// Whoever removes the file over and over wins: the keeper puts it back this often in a window, and no more.
	confRestores = 3
	confWindow   = 10 * time.Minute
)

// A confKeeper is a Task that writes the network configuration when the node can serve pods, and puts it back when it is
// removed or changed. For the runtime the file is the node's "network ready" switch. So it is written last, and once it is
// there it stays, also while the agent is away: a node that loses it becomes NotReady and its pods go.
type confKeeper struct {
	cni      cniConfig
	text     []byte
	status   func() error // nil once a pod can be added
	warn     func(reason, message string)
	log      *slog.Logger
	ready    chan struct{}
	restores []time.Time // in the window
	said     string      // the complaint that was made last

	current, shadows prometheus.Gauge
	restored         prometheus.Counter
}

func newConfKeeper(c config, status func() error, warn func(reason, message string), log *slog.Logger, metrics prometheus.Registerer) *confKeeper {
	k := &confKeeper{
		cni: c.CNI, text: conflistOf(c.Socket), status: status, warn: warn, log: log, ready: make(chan struct{}),
		current: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearpath_cni_config_current", Help: "1 when the network configuration is in the runtime's directory as the agent wrote it.",
		}),
		shadows: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearpath_cni_config_shadowed", Help: "1 when a configuration of another network comes first by name, so that pods do not get this one.",
		}),
		restored: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearpath_cni_config_restores_total", Help: "Times the network configuration was put back after somebody else removed or changed it.",
		}),
	}
	metrics.MustRegister(k.current, k.shadows, k.restored)
	return k
}

func (k *confKeeper) String() string         { return "network configuration" }
func (k *confKeeper) Ready() <-chan struct{} { return k.ready }

func (k *confKeeper) path() string { return filepath.Join(k.cni.ConfDir, k.cni.ConfName) }

// Run looks until the context ends. It leaves the file there.
func (k *confKeeper) Run(ctx context.Context) error {
	pause := confFirst
	for {
		if k.written() || k.status() == nil {
			k.pass(ctx, time.Now())
		}
		if k.written() {
			pause = confEvery
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// written says that this agent has found or made the configuration right.
func (k *confKeeper) written() bool {
	select {
	case <-k.ready:
		return true
	default:
		return false
	}
}

// pass looks once, puts the file right within bounds, and tells what is wrong.
func (k *confKeeper) pass(ctx context.Context, now time.Time) {
	err := k.put(ctx, now)
	if err == nil && !k.written() {
		k.log.Info("network configuration is in place", "path", k.path())
		close(k.ready)
	}
	set(k.current, err == nil)
	shadow := shadowed(k.cni.ConfDir, k.cni.ConfName)
	set(k.shadows, shadow != nil)
	k.complain(err, shadow)
}

// errContested says that somebody else removes or changes the file again and again.
var errContested = errors.New("another program removes or changes it again and again: stop that, or leave cni.confDir empty")

func (k *confKeeper) put(ctx context.Context, now time.Time) error {
	if fileIs(os.DirFS(k.cni.ConfDir), k.cni.ConfName, k.text, confMode) {
		return nil
	}
	if k.written() {
		for len(k.restores) > 0 && now.Sub(k.restores[0]) >= confWindow {
			k.restores = k.restores[1:]
		}
		if len(k.restores) >= confRestores {
			return fmt.Errorf("%s is not put back any more: %w", k.path(), errContested)
		}
		k.restores = append(k.restores, now)
		k.restored.Inc()
		k.log.Warn("network configuration was removed or changed, putting it back", "path", k.path())
	}
	d, err := openHostDir(ctx, k.cni.ConfDir)
	if err != nil {
		return err
	}
	defer d.close()
	_, err = d.put(k.cni.ConfName, k.text, confMode)
	return err
}

// complain tells each trouble once, and again when another came between.
func (k *confKeeper) complain(err, shadow error) {
	reason, what := "CNIConfigNotWritten", err
	if err == nil {
		reason, what = "CNIConfigShadowed", shadow
	}
	if what == nil {
		k.said = ""
		return
	}
	if text := what.Error(); text != k.said {
		k.said = text
		k.log.Error("network configuration", "reason", reason, "err", what)
		k.warn(reason, text)
	}
}

func set(g prometheus.Gauge, on bool) {
	g.Set(0)
	if on {
		g.Set(1)
	}
}
