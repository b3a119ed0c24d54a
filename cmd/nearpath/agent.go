package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/internal/service"
	"github.com/nearpath/nearpath/ipam"
	"github.com/nearpath/nearpath/nodelocaldns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

func newAgent() *cobra.Command {
	var path string
	flags := config{}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the node agent",
		Long: `Agent networks this node's pods and serves its Services and DNS, until it gets SIGTERM. What it programmed
into the kernel goes on without it.

The configuration file holds every setting; flags that are given override it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			read := func(path string) (config, error) {
				cfg, err := readConfig(path)
				if err != nil {
					return cfg, err
				}
				override(&cfg, flags)
				cfg.NodeName = nodeName(cfg.NodeName)
				return cfg, cfg.check()
			}
			cfg, err := read(path)
			if err != nil {
				return usageError{err}
			}
			level := new(slog.LevelVar)
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			// What libraries log by themselves comes out the same way: CoreDNS through package log, client-go through klog.
			slog.SetDefault(log)
			klog.SetSlogLogger(log)
			return runAgent(cmd.Context(), newAgentOf(cfg, level, log), path, read)
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration file (YAML)")
	cmd.Flags().StringVar(&flags.NodeName, "node-name", "", "the node's name in the cluster")
	cmd.Flags().StringVar(&flags.Kubeconfig, "kubeconfig", "", "how to reach the Kubernetes API")
	cmd.Flags().StringVar(&flags.Manifests, "manifests", "", "directory of manifests to use instead of the Kubernetes API")
	cmd.Flags().StringVar(&flags.Socket, "socket", "", "unix socket to listen on")
	return cmd
}

func override(cfg *config, flags config) {
	for _, f := range []struct{ to, from *string }{
		{&cfg.NodeName, &flags.NodeName}, {&cfg.Kubeconfig, &flags.Kubeconfig},
		{&cfg.Manifests, &flags.Manifests}, {&cfg.Socket, &flags.Socket},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
}

// An agent is the parts of one run, made in the order in which they depend on each other.
type agent struct {
	cfg     config
	log     *slog.Logger
	metrics *prometheus.Registry
	closers []func() error

	live       atomic.Pointer[config] // cfg with what has changed since
	logLevel   *slog.LevelVar
	instance   aliyun.Instance
	client     *aliyun.Client
	store      *cluster.Store
	events     nodeWarner
	refused    func() error                                   // Services and slices that the source refuses as they stand
	unread     func() error                                   // kinds of objects that the source cannot read at the moment
	nodes      func(context.Context) (map[string]bool, error) // instances of the cluster's nodes; nil: not known
	recheck    func()                                         // looks at the network around the node soon
	egress     *egress
	datapath   *bpf.Datapath
	services   *service.Reconciler
	publisher  *nodelocaldns.Publisher
	answers    answerMap
	kubeProxy  kubeProxyFace
	reaper     *service.Reaper
	host       *hostnet.Host
	pool       *ipam.Pool
	scopes     *dnsScopes
	policy     *policySync     // nil: policies are not enforced
	drops      *dropLog        // as policy
	tracked    *trackedSweeper // as policy
	names      *policyNames    // as policy
	cni        *cni.Server
	pending    <-chan struct{}                  // closed when deletions from before this agent are done
	synced     <-chan struct{}                  // closed when the first Snapshot is served
	attached   <-chan struct{}                  // closed when the socket programs are in place
	served     atomic.Pointer[cluster.Snapshot] // what DNS answers from
	external   *nodelocaldns.External
	dnsService cluster.Name
	servers    *[]netip.Addr // where the kernel answers; publish has it
	// noResolver says once that the node has none.
	noResolver sync.Once
	tasks      tasks
	forADD     tasks // what must be ready before a pod may be wired
}

func newAgentOf(cfg config, level *slog.LevelVar, log *slog.Logger) *agent {
	a := &agent{cfg: cfg, log: log, logLevel: level, metrics: prometheus.NewRegistry(), store: cluster.NewStore(), events: cluster.NoEvents{}}
	a.served.Store(a.store.Snapshot())
	a.live.Store(&cfg)
	level.Set(cfg.LogLevel)
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	return a
}

// runAgent builds the parts and runs them. The configuration is what read makes of the files at path.
func runAgent(ctx context.Context, a *agent, path string, read func(string) (config, error)) (err error) {
	defer func() { err = errors.Join(err, a.close()) }()
	lock, err := lockNode(lockPath(a.cfg))
	if err != nil {
		return err
	}
	a.closers = append(a.closers, lock.Close)
	for _, note := range a.cfg.notes {
		a.log.Warn("configuration", "key", note)
	}
	for _, build := range []func(context.Context) error{
		a.buildSource, a.buildDatapath, a.buildPolicy, a.buildCloud, a.buildPool, a.buildNetwork, a.buildKubeProxy, a.buildScopes, a.buildDNS, a.buildCNI, a.buildHealth,
	} {
		if err := build(ctx); err != nil {
			return err
		}
	}
	if path != "" {
		a.tasks = append(a.tasks, newReloader(path, a.cfg, read, a.applyConfig, a.log, a.metrics))
	}
	saveMemory(gcPercent)
	a.tasks = append(a.tasks, newMemoryTask(a.synced))
	a.log.Info("agent starts", "version", version, "node", a.cfg.NodeName)
	err = a.tasks.run(ctx, a.log)
	a.log.Info("agent stops; what it programmed into the kernel goes on", "err", err)
	return err
}

func (a *agent) close() error {
	var errs []error
	for _, f := range slices.Backward(a.closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func buildInfo() prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "nearpath_build_info", Help: "1; the version is a label.", ConstLabels: prometheus.Labels{"version": version},
	})
	g.Set(1)
	return g
}

func (a *agent) buildSource(context.Context) error {
	if a.cfg.Manifests != "" {
		source, err := cluster.NewFileSource(cluster.FileConfig{Dir: a.cfg.Manifests, Store: a.store, NodeName: a.cfg.NodeName, Policy: a.cfg.Policy.Enabled, Log: a.log, Registerer: a.metrics})
		if err != nil {
			return err
		}
		a.tasks, a.refused = append(a.tasks, source), source.Refused
		a.unread = func() error { return nil } // there a load that fails is an alarm of its own
		return nil
	}
	restConfig, err := cluster.RESTConfig(a.cfg.Kubeconfig)
	if err != nil {
		return fmt.Errorf("find the Kubernetes API: %w", err)
	}
	restConfig.UserAgent = "nearpath-agent/" + version
	source, err := cluster.NewAPISource(cluster.APIConfig{
		REST: restConfig, Store: a.store, NodeName: a.cfg.NodeName, Policy: a.cfg.Policy.Enabled, Log: a.log, Registerer: a.metrics,
		Warn: func(about cluster.Object, reason, message string) { a.events.WarnOnce(about, reason, message) },
	})
	if err != nil {
		return err
	}
	a.tasks, a.refused, a.unread = append(a.tasks, source), source.Refused, source.Unread
	return a.buildReports(restConfig)
}

func (a *agent) buildDatapath(context.Context) error {
	cookie, err := bpf.NetNSCookie()
	if err != nil {
		return err
	}
	a.datapath, err = bpf.Load(bpf.Config{
		PinDir: a.cfg.PinDir, CgroupRoot: a.cfg.CgroupRoot, HostNetNSCookie: cookie, NodeDNS: a.cfg.DNS.addresses(),
		PolicyOff: !a.cfg.Policy.Enabled, Tracked: uint32(a.cfg.Policy.Flows),
	})
	if err != nil {
		return err
	}
	a.closers = append(a.closers, a.datapath.Close)
	services, err := a.newServices()
	if err != nil {
		return err
	}
	// Programs come after the first full sync: until then whatever was attached before goes on.
	attach := &after{name: "socket programs", first: services.Ready(), do: a.attachSockets, ready: make(chan struct{})}
	a.services, a.synced, a.attached = services, services.Ready(), attach.Ready()
	if a.reaper, err = a.newReaper(); err != nil {
		return err
	}
	keep := &delayed{task: newPeriodic("program of lo", podLinksEvery, a.keepLoopback()), first: []<-chan struct{}{attach.Ready()}}
	a.tasks = append(a.tasks, services, attach, keep, a.reaper, a.publisher, newFlowSweeper(sweepFlows(a.datapath), a.log, a.metrics),
		newAffinitySweeper(sweepAffinity(a.datapath), a.log, a.metrics))
	a.forADD = append(a.forADD, attach)
	return nil
}

// loopback is the index of lo in every network namespace (LOOPBACK_IFINDEX of include/net/flow.h).
const loopback = 1

// attachSockets puts into place what sockets meet.
func (a *agent) attachSockets() error {
	if err := a.datapath.Guarded(); err != nil {
		a.warnNode("RawSocketsUnguarded", "raw sockets of pods with ipvlan links or ENIs of their own can send past our programs: "+err.Error())
	}
	return errors.Join(a.datapath.Attach(), a.datapath.AttachLink(bpf.Loopback, loopback))
}

// keepLoopback puts lo's program back when somebody else has removed it, and says so.
func (a *agent) keepLoopback() func() {
	failed := ""
	return func() {
		on, err := a.datapath.LinkAttached(bpf.Loopback, loopback)
		if on {
			return
		}
		if err = errors.Join(err, a.datapath.AttachLink(bpf.Loopback, loopback)); err == nil {
			a.warnNode("HostNetworkRestored", "the program of lo was removed, and is back")
		} else if err.Error() != failed {
			failed = err.Error()
			a.log.Warn("the program of lo cannot be attached", "err", err)
		}
	}
}

func (a *agent) buildHealth(context.Context) error {
	api := agentapi.NewServer(agentapi.ServerConfig{Socket: a.cfg.Socket, CNI: a.serveCNI, Log: a.log})
	a.registerViews(api)
	if a.cfg.CNI.ConfDir != "" {
		serving := append(slices.Clone(a.forADD), api)
		keeper := newConfKeeper(a.cfg, func() error { return notReady(serving) }, a.warnNode, a.log, a.metrics)
		a.tasks = append(a.tasks, keeper)
	}
	a.tasks = append(a.tasks, &delayed{task: api, first: []<-chan struct{}{a.pending}}, &health{
		listen: a.cfg.Listen, metrics: prometheus.Gatherers{a.metrics, prometheus.GathererFunc(corednsMetrics)}, ready: make(chan struct{}),
		waiting: func() []string { return a.tasks.waiting() },
	})
	return nil
}
