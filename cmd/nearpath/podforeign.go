package main

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/cni"
)

// foreignEvery is how often pods' links are looked at for programs of others. Nothing is done about these but to tell.
const foreignEvery = 5 * time.Second

// foreignLinks finds programs of others that see a link's packets before ours; *bpf.Datapath does.
type foreignLinks interface {
	LinkForeign(role bpf.Role, index int) ([]string, error)
}

// A foreignWatch is a Task that tells of pods to whose links others have put programs or filters before ours: what these let pass, or
// send elsewhere, ours never see, so that neither policies nor addresses of Services are sure to hold there.
type foreignWatch struct {
	periodic
	links  foreignLinks
	linked *podLinks
	report func(reason, message string)
	log    *slog.Logger
	pods   prometheus.Gauge
	told   map[netip.Addr]string
}

func newForeignWatch(links foreignLinks, linked *podLinks, report func(reason, message string), log *slog.Logger, metrics prometheus.Registerer) *foreignWatch {
	w := &foreignWatch{links: links, linked: linked, report: report, log: log, pods: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "nearpath_pods_foreign_programs", Help: "Pods on whose links programs or filters of others see packets before nearpath's.",
	})}
	metrics.MustRegister(w.pods)
	w.periodic = newPeriodic("foreign programs on pods' links", foreignEvery, w.look)
	return w
}

// look tells of a pod once for each set of programs.
func (w *foreignWatch) look() {
	found := map[netip.Addr]string{}
	for _, e := range w.linked.all() {
		if names := w.before(e); len(names) > 0 {
			found[e.Addrs[0]] = strings.Join(names, ", ")
		}
	}
	w.pods.Set(float64(len(found)))
	addrs := slices.SortedFunc(maps.Keys(found), netip.Addr.Compare)
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return w.told[a] == found[a] })
	w.told = found
	if len(addrs) == 0 {
		return
	}
	message := fmt.Sprintf("programs of others see packets of %d pods before nearpath does, and can let them pass: %s at %v", len(addrs), found[addrs[0]],
		addrs[:min(len(addrs), 10)])
	w.log.Warn(message)
	w.report("PodForeignPrograms", message)
}

// before names what is on the pod's links. What cannot be looked at is podLinks' to complain of.
func (w *foreignWatch) before(e cni.PodEntry) (names []string) {
	_ = eachLink(e, func(role bpf.Role, index int) error {
		found, err := w.links.LinkForeign(role, index)
		names = append(names, found...)
		return err
	})
	return names
}
