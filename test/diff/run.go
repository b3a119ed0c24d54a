package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/service/model"
	"github.com/nearpath/nearpath/internal/service/model/worlds"
	"github.com/nearpath/nearpath/test/netlab"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"
)

// labPrefix begins the names of everything that is made on the machine.
const labPrefix = "nptest-diff"

// A runner compares clusters, all with the same settings of the node.
type runner struct {
	o     options
	lab   worlds.Lab
	near  *side
	kubes []*side // kube-proxy's modes; all but the first are asked now and then
	tally *tally
	out   io.Writer
}

// runPart makes the lab and compares o.clusters clusters in it.
func runPart(ctx context.Context, o options, t *tally, out io.Writer) (err error) {
	lab, err := netlab.New(labPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	r := &runner{o: o, lab: worldLab(o.services, o.nodePorts), tally: t, out: out}
	defer func() {
		all := append([]*side{r.near}, r.kubes...)
		err = errors.Join(err, closeAll(slices.DeleteFunc(all, func(s *side) bool { return s == nil })))
	}()
	if r.near, err = newNearSide(lab, o); err != nil {
		return err
	}
	modes := []string{"nftables"}
	if o.iptables > 0 {
		modes = append(modes, "iptables")
	}
	for _, mode := range modes {
		s, err := newKubeProxySide(lab, o, mode)
		if err != nil {
			return err
		}
		r.kubes = append(r.kubes, s)
	}
	if err := r.checkLab(); err != nil {
		return err
	}
	for i := range o.clusters {
		if ctx.Err() != nil || t.failed >= o.mismatch {
			break
		}
		if err := r.cluster(o.seed+i, i); err != nil {
			return fmt.Errorf("cluster of seed %d: %w", o.seed+i, err)
		}
	}
	for _, s := range append([]*side{r.near}, r.kubes...) {
		t.spent[s.name+" programming"] += s.programming
		t.spent[s.name+" probing"] += s.probing
	}
	return nil
}

// worldOf draws the cluster of a seed.
func worldOf(lab worlds.Lab, seed int) *model.World {
	w := rapid.Custom(func(t *rapid.T) *model.World { return worlds.Draw(t, lab) }).Example(seed)
	// kube-proxy has neither as a setting of the library.
	w.ProxyName, w.NoExternalIPs = "", false
	for _, svc := range w.Services {
		settle(w, svc)
	}
	// No proxy gets to see a port without a name (A3): the API server makes it an empty one.
	for _, slice := range w.Slices {
		for i := range slice.Ports {
			if slice.Ports[i].Name == nil {
				slice.Ports[i].Name = new(string)
			}
		}
	}
	return w
}

// settle has endpoints be on the node that the routes lead to, where kube-proxy does not work otherwise: a pod of this node
// reaches itself only when its endpoint is said to be here, and what keeps its client's address must answer by this node.
// Elsewhere, who is local is up to the objects (A6).
func settle(w *model.World, svc *corev1.Service) {
	local := svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	for _, slice := range w.Slices {
		ours := slice.Namespace == svc.Namespace && slice.Labels[discoveryv1.LabelServiceName] == svc.Name
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			addr, err := netip.ParseAddr(e.Addresses[0])
			if err != nil || !ours {
				continue // FQDN
			}
			here, there := nodeName, remoteName
			switch remote := slices.Contains(remoteAddrs, addr); {
			case !remote:
				e.NodeName = &here
			case local:
				e.NodeName = &there
			}
		}
	}
}

// checkLab asks every backend directly from everywhere: nothing is proven in a lab where one cannot be reached.
func (r *runner) checkLab() error {
	var probes []model.Probe
	for _, c := range r.lab.Clients {
		for _, b := range r.lab.Backends {
			if c.Addr.Is6() != b.Addr.Is6() {
				continue
			}
			for _, protocol := range r.lab.Protocols {
				probes = append(probes, model.Probe{Client: c, To: addrPort(b.Addr, backendPorts[0]), Protocol: protocol})
			}
		}
	}
	for _, s := range append([]*side{r.near}, r.kubes...) {
		if err := s.reaches(probes); err != nil {
			return fmt.Errorf("the lab of %s does not work: %w", s.name, err)
		}
	}
	return nil
}

// reaches asks everybody at its own address.
func (s *side) reaches(probes []model.Probe) error {
	all, err := s.find(asksOf(probes, 1), 5*time.Second)
	if err != nil {
		return err
	}
	for i, p := range probes {
		got := resultOf(p, all[i])
		if _, ok := got.backends[p.To]; !ok || got.word != "" {
			return fmt.Errorf("%s got %s", p, got)
		}
	}
	return nil
}

// sides are those that a cluster is compared on.
func (r *runner) sides(i int) []*side {
	all := append([]*side{r.near}, r.kubes...)
	if len(all) > 2 && i%r.o.iptables != 0 {
		all = all[:2]
	}
	return all
}

// cluster compares one cluster on nearpath and on kube-proxy.
func (r *runner) cluster(seed, i int) error {
	started := time.Now()
	w := worldOf(r.lab, seed)
	c := newComparison(w, worlds.Probes(&r.lab, w), r.sides(i))
	if err := c.serve(w); err != nil {
		return err
	}
	if err := c.find(r.o.patience, firstTries, 3); err != nil {
		return err
	}
	wrong := r.judge(c)
	if len(wrong) > 0 {
		suspects := wrong
		var err error
		if wrong, err = r.again(w, c, wrong); err != nil {
			return err
		}
		r.tally.unstable(seed, suspects, wrong)
	}
	r.tally.add(c, time.Since(started))
	if len(wrong) == 0 {
		return nil
	}
	r.tally.failed++
	for _, d := range wrong {
		for _, kind := range d.kinds {
			r.tally.kinds[kind]++
		}
	}
	if !r.o.shrink {
		return nil
	}
	return r.explain(seed, w, c, wrong)
}

// again asks about the differences once more, with more patience, of proxies that start from nothing.
func (r *runner) again(w *model.World, c *comparison, wrong []difference) ([]difference, error) {
	var probes []model.Probe
	for _, d := range wrong {
		for _, p := range c.company(d) {
			if !slices.Contains(probes, p) {
				probes = append(probes, p)
			}
		}
	}
	second := newComparison(w, probes, c.sides)
	if err := second.serve(nil); err != nil {
		return nil, err
	}
	if err := second.serve(w); err != nil {
		return nil, err
	}
	if err := second.find(5*r.o.patience, manyTries, 3); err != nil {
		return nil, err
	}
	return r.judge(second), nil
}

// judge leaves out what the options do not ask about.
func (r *runner) judge(c *comparison) []difference {
	return slices.DeleteFunc(c.judge(), func(d difference) bool {
		return !slices.ContainsFunc(d.kinds, func(kind string) bool { return strings.Contains(kind, r.o.about) })
	})
}

// serve has all sides of a comparison serve a world.
func (c *comparison) serve(w *model.World) error {
	var group errgroup.Group
	for _, s := range c.sides {
		group.Go(func() error { return s.serve(w) })
	}
	return group.Wait()
}
