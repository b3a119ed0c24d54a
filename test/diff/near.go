package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/service"
	"github.com/nearpath/nearpath/internal/service/model"
	"github.com/nearpath/nearpath/test/netlab"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// programTimeout bounds the time a reconciler takes for a world; it takes milliseconds.
const programTimeout = 20 * time.Second

// A nearProxy is nearpath: its reconciler in this process, its programs on the links of the lab's node and on the cgroup
// of what runs there.
type nearProxy struct {
	datapath *bpf.Datapath
	store    *cluster.Store
	changes  *changes
	stop     context.CancelFunc
	done     chan struct{}
	flows    *ebpf.Map
}

// newNearSide starts nearpath in a new copy of the lab.
func newNearSide(lab *netlab.Lab, o options) (*side, error) {
	n, err := newNetwork(lab, "near")
	if err != nil {
		return nil, err
	}
	node, err := lab.StartNode(netlab.NodeSpec{Name: "near", NetNS: n.places[placeNode]})
	if err != nil {
		return nil, err
	}
	p := &nearProxy{store: cluster.NewStore(), done: make(chan struct{})}
	pins := filepath.Join(node.MachinePath("/sys/fs/bpf"), "nearpath")
	if err := p.load(n, node.CgroupPath(), pins); err != nil {
		return nil, fmt.Errorf("start nearpath: %w", err)
	}
	if err := p.describe(n, o.nodePorts); err != nil {
		return nil, errors.Join(fmt.Errorf("start nearpath: %w", err), p.datapath.Close())
	}
	if err := p.reconcile(o.log); err != nil {
		return nil, errors.Join(fmt.Errorf("start nearpath: %w", err), p.datapath.Close())
	}
	s := &side{proxy: p, name: "nearpath", dialect: model.Nearpath}
	cgroup, err := os.Open(filepath.Join(node.CgroupPath(), "init"))
	if err != nil {
		return nil, err
	}
	defer cgroup.Close()
	return s, prepareSide(lab, s, n, cgroup)
}

// load puts programs on the node's sockets and links.
func (p *nearProxy) load(n *network, cgroup, pins string) error {
	cookie, err := cookieOf(n.places[placeNode])
	if err != nil {
		return err
	}
	// Nothing ages here: connections are forgotten after each world.
	cfg := bpf.Config{PinDir: pins, CgroupRoot: cgroup, HostNetNSCookie: cookie, Flows: 1 << 18}
	if p.datapath, err = bpf.Load(cfg); err != nil {
		return err
	}
	if err := p.datapath.Attach(); err != nil {
		return errors.Join(err, p.datapath.Close())
	}
	p.flows, err = ebpf.LoadPinnedMap(filepath.Join(pins, "v2", "flows"), nil)
	return err
}

func cookieOf(ns *netlab.NetNS) (cookie uint64, err error) {
	err = ns.Do(func() (err error) {
		cookie, err = bpf.NetNSCookie()
		return err
	})
	return cookie, err
}

// describe tells the programs of the node and its pods, and puts them on the links, as an agent does.
func (p *nearProxy) describe(n *network, nodePorts []string) error {
	cookie, err := cookieOf(n.places[placeNode])
	if err != nil {
		return err
	}
	if err := p.datapath.Pods.PutHost(cookie, nodeAddrs[0], nodeAddrs[1]); err != nil {
		return err
	}
	all := localAddrs()
	without := slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return slices.Contains(withNodePorts(nodePorts), a) })
	if err := p.datapath.SetNodeAddresses(all, without...); err != nil {
		return err
	}
	var networks []bpf.HostNetwork
	for _, cidr := range serviceNets {
		networks = append(networks, bpf.HostNetwork{Prefix: cidr, Way: bpf.WayService})
	}
	if err := p.datapath.SetHostNetworks(networks); err != nil {
		return err
	}
	return n.places[placeNode].Do(func() error {
		uplink, err := linkIndex("eth0")
		if err != nil {
			return err
		}
		return errors.Join(p.datapath.SetLinkAddresses([]bpf.LinkAddresses{{Link: uplink, Addrs: nodeAddrs[:2]}}), p.datapath.AttachLink(bpf.Uplink, uplink),
			p.addPod(n, placePod, podAddrs), p.addPod(n, placePlain, plainAddrs))
	})
}

// addPod is called in the node's namespace.
func (p *nearProxy) addPod(n *network, place string, addrs []netip.Addr) error {
	link, err := linkIndex("v" + place)
	if err != nil {
		return err
	}
	cookie, err := cookieOf(n.places[place])
	if err != nil {
		return err
	}
	pod := bpf.Pod{Addrs: addrs, NetNSCookie: cookie, Link: link, Slot: 1, ByPackets: place == placePlain}
	if err := p.datapath.Pods.Put(pod); err != nil {
		return err
	}
	return p.datapath.AttachLink(bpf.PodLink, link)
}

// localAddrs are all that the node has. One loopback address stands for all of its family.
func localAddrs() []netip.Addr { return append(slices.Clone(nodeAddrs), addrs("127.0.0.1", "::1")...) }

// withNodePorts are those of them that a setting of nodePortAddresses lets answer.
func withNodePorts(setting []string) (list []netip.Addr) {
	for i, a := range localAddrs() {
		ofFamily, listed := false, false
		for _, text := range setting {
			cidr, err := netip.ParsePrefix(text)
			switch {
			case err != nil: // primary
				ofFamily, listed = true, i < 2
			case cidr.Addr().Is6() == a.Is6():
				ofFamily, listed = true, listed || cidr.Contains(a)
			}
		}
		if !ofFamily || listed {
			list = append(list, a)
		}
	}
	return list
}

func linkIndex(name string) (int, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

// reconcile starts the reconciler.
func (p *nearProxy) reconcile(log io.Writer) error {
	p.changes = &changes{sub: p.store.Subscribe(cluster.Services, cluster.Nodes), waiting: make(chan struct{})}
	r, err := service.New(service.Config{
		Maps: p.datapath.Services, Changes: p.changes, Node: service.Node{Name: nodeName},
		Log: slog.New(slog.NewTextHandler(log, nil)), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() {
		defer close(p.done)
		_ = r.Run(ctx) // fails with the context only
	}()
	return nil
}

// program puts a world into the store and waits until the reconciler has done all it can about it.
func (p *nearProxy) program(w *model.World) error {
	objects, err := objectsOf(w)
	if err != nil {
		return err
	}
	before := p.store.Snapshot().Version()
	p.store.Replace(objects)
	version := p.store.Snapshot().Version()
	if version == before {
		return nil
	}
	return p.changes.wait(version)
}

// objectsOf reads the objects of a world as the agent does. Those that it refuses are left out, as they are there.
func objectsOf(w *model.World) (all cluster.Objects, err error) {
	if w == nil {
		return all, nil
	}
	all.Namespaces = []string{"default"}
	for _, in := range w.Services {
		svc, err := cluster.ServiceFrom(in)
		if err != nil {
			return all, err
		}
		all.Services = append(all.Services, svc)
	}
	node, err := cluster.NodeFrom(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: w.Node.Name, Labels: w.Node.Labels}})
	if err != nil {
		return all, err
	}
	all.Nodes = []*cluster.Node{node}
	for _, in := range w.Slices {
		slice, err := cluster.SliceFrom(in)
		if err != nil {
			return all, err
		}
		if slice != nil {
			all.Slices = append(all.Slices, slice)
		}
	}
	return all, nil
}

// forget removes all connections.
func (p *nearProxy) forget() error {
	var keys [][]byte
	var key, value []byte
	for it := p.flows.Iterate(); it.Next(&key, &value); {
		keys = append(keys, append([]byte(nil), key...))
	}
	for _, k := range keys {
		if err := p.flows.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

func (p *nearProxy) close() error {
	p.stop()
	<-p.done
	p.changes.sub.Close()
	return errors.Join(p.flows.Close(), p.datapath.Close())
}

// changes hands a Store's Changes to a reconciler and knows when it is through with one: when it asks for the next.
type changes struct {
	sub *cluster.Subscription

	mu      sync.Mutex    // guards what follows
	handed  uint64        // version of the Snapshot handed out last
	through uint64        // version of the one that the reconciler is through with
	waiting chan struct{} // closed and replaced when through grows
}

// Next is for the reconciler.
func (c *changes) Next(ctx context.Context) (cluster.Change, error) {
	c.mu.Lock()
	c.through = c.handed
	close(c.waiting)
	c.waiting = make(chan struct{})
	c.mu.Unlock()
	change, err := c.sub.Next(ctx)
	if err == nil {
		c.mu.Lock()
		c.handed = change.Snapshot.Version()
		c.mu.Unlock()
	}
	return change, err
}

// wait returns when the reconciler is through with a version.
func (c *changes) wait(version uint64) error {
	timeout := time.NewTimer(programTimeout)
	defer timeout.Stop()
	for {
		c.mu.Lock()
		through, waiting := c.through, c.waiting
		c.mu.Unlock()
		if through >= version {
			return nil
		}
		select {
		case <-waiting:
		case <-timeout.C:
			return fmt.Errorf("the reconciler is not through with a world after %s", programTimeout)
		}
	}
}
