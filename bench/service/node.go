package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bench/remote"
	"github.com/nearpath/nearpath/bench/tcp"
	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/service"
)

// What nearpath's process on its node does.
const (
	verbLoad = "load"
	verbFlip = "flip"
	verbSync = "sync"
	verbSize = "size"
)

// A pathSite asks nearpath's process on its node.
type pathSite struct{ process *remote.Process }

func (p *pathSite) load(ctx context.Context, n size) error {
	return p.process.Ask(ctx, verbLoad, n, nil)
}

func (p *pathSite) flip(ctx context.Context, times int) (took []float64, err error) {
	err = p.process.Ask(ctx, verbFlip, times, &took)
	return took, err
}

func (p *pathSite) sync(ctx context.Context, n size) (took float64, err error) {
	err = p.process.Ask(ctx, verbSync, n, &took)
	return took, err
}

func (p *pathSite) size(ctx context.Context) (s mapSize, err error) {
	err = p.process.Ask(ctx, verbSize, struct{}{}, &s)
	return s, err
}

// Where the datapath is at home on a node.
const (
	pinDir       = "/sys/fs/bpf"
	datapathPins = pinDir + "/nearpath"
	cgroupRoot   = "/sys/fs/cgroup"
)

// serveNode is nearpath's part of a node: the real reconciler on the real datapath, fed with Snapshots as informers do.
func serveNode(in io.Reader, out io.Writer) error {
	n := &pathNode{store: cluster.NewStore()}
	n.store.Update(func(e *cluster.Edit) { e.MarkSynced() })
	w, err := startWorkload(datapathPins, n.store)
	if err != nil {
		return err
	}
	n.workload = w
	if err := w.datapath.Attach(); err != nil {
		return errors.Join(err, w.Close())
	}
	return errors.Join(remote.Serve(in, out, remote.Verbs{
		verbLoad: remote.Verb(func(to size) (any, error) { return nil, n.load(to) }),
		verbFlip: remote.Verb(n.flip),
		verbSync: remote.Verb(func(to size) (any, error) { return fullSync(to) }),
		verbSize: remote.Verb(func(struct{}) (any, error) { return n.size() }),
	}), w.Close())
}

// A workload is a datapath and what keeps it equal to a Store.
type workload struct {
	datapath *bpf.Datapath
	ended    chan error
	cancel   context.CancelFunc
	close    []func() error
	ready    time.Duration // from the start to the first Snapshot being served
}

// startWorkload returns when what is in the store is served.
func startWorkload(pins string, store *cluster.Store) (*workload, error) {
	cookie, err := bpf.NetNSCookie()
	if err != nil {
		return nil, err
	}
	datapath, err := bpf.Load(bpf.Config{PinDir: pins, CgroupRoot: cgroupRoot, HostNetNSCookie: cookie})
	if err != nil {
		return nil, err
	}
	subscription := store.Subscribe(cluster.Services, cluster.Namespaces, cluster.Nodes)
	w := &workload{datapath: datapath, ended: make(chan error, 1), close: []func() error{datapath.Close}}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = func() { cancel(); subscription.Close() }
	reconciler, err := service.New(service.Config{
		Maps: datapath.Services, Changes: subscription, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Metrics: prometheus.NewRegistry(), Node: service.Node{Name: "here"},
	})
	if err != nil {
		cancel()
		return nil, errors.Join(err, datapath.Close())
	}
	began := time.Now()
	go func() { w.ended <- reconciler.Run(ctx) }()
	select {
	case <-reconciler.Ready():
		w.ready = time.Since(began)
		return w, nil
	case err := <-w.ended:
		cancel()
		return nil, errors.Join(fmt.Errorf("the reconciler ended: %w", err), datapath.Close())
	}
}

func (w *workload) Close() error {
	w.cancel()
	errs := []error{<-w.ended}
	for _, f := range w.close {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

type pathNode struct {
	store    *cluster.Store
	workload *workload
	flipped  int
}

// load returns when the Service that every load changes is served as it was changed.
func (n *pathNode) load(to size) error {
	objects, err := convert(clusterOf(to))
	if err != nil {
		return err
	}
	n.store.Update(func(e *cluster.Edit) {
		for svc := range n.store.Snapshot().Services() {
			e.DeleteService(svc.Name)
			e.DeleteSlice(cluster.Name{Namespace: svc.Name.Namespace, Name: svc.Name.Name + "-1"})
		}
		objects.put(e)
	})
	for range 2 { // there and back, so that what is loaded is what clusterOf says
		if _, err := n.flip(1); err != nil {
			return err
		}
	}
	return nil
}

// converted are objects in the form that Snapshots hold.
type converted struct {
	services []*cluster.Service
	slices   []*cluster.EndpointSlice
}

func convert(o Objects) (c converted, err error) {
	for _, svc := range o.Services {
		to, err := cluster.ServiceFrom(svc)
		if err != nil {
			return c, err
		}
		c.services = append(c.services, to)
	}
	for _, slice := range o.Slices {
		to, err := cluster.SliceFrom(slice)
		if err != nil {
			return c, err
		}
		c.slices = append(c.slices, to)
	}
	return c, nil
}

func (c converted) put(e *cluster.Edit) {
	for _, svc := range c.services {
		e.PutService(svc)
	}
	for _, slice := range c.slices {
		e.PutSlice(slice)
	}
}

// flipBound is how long a change may take before the run fails.
const flipBound = 30 * time.Second

// flip moves the one endpoint of a Service to another address, and returns in milliseconds how long it takes, each time,
// from the change of the Snapshot until a connection arrives there.
func (n *pathNode) flip(times int) (any, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var took []float64
	for range times {
		n.flipped = 1 - n.flipped
		to := served()[n.flipped]
		slice, err := cluster.SliceFrom(sliceOf(flipping, []netip.Addr{to}))
		if err != nil {
			return nil, err
		}
		began := time.Now()
		n.store.Update(func(e *cluster.Edit) { e.PutSlice(slice) })
		for {
			peer, err := peerOf(at(vip(-1)))
			if err == nil && peer == at(to) {
				break
			}
			if time.Since(began) > flipBound {
				return nil, fmt.Errorf("a connection to %s arrives at %s after %s, want %s: %w", vip(-1), peer, flipBound, to, err)
			}
		}
		took = append(took, millis(time.Since(began)))
	}
	return took, nil
}

// peerOf connects and tells where to: a translated TCP socket does not hide it.
func peerOf(to netip.AddrPort) (netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return netip.AddrPort{}, err
	}
	if err := unix.Connect(fd, tcp.Sockaddr(to)); err != nil {
		return netip.AddrPort{}, err
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	v4 := peer.(*unix.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), uint16(v4.Port)), nil
}

// fullSync serves Services from empty maps, and returns the milliseconds that takes when the Snapshot is there.
func fullSync(n size) (took float64, err error) {
	objects, err := convert(clusterOf(n))
	if err != nil {
		return 0, err
	}
	store := cluster.NewStore()
	store.Update(func(e *cluster.Edit) {
		objects.put(e)
		e.MarkSynced()
	})
	pins := filepath.Join(pinDir, "sync")
	w, err := startWorkload(pins, store)
	if err != nil {
		return 0, err
	}
	return millis(w.ready), errors.Join(w.Close(), os.RemoveAll(pins))
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
