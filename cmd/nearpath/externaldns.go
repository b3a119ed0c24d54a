package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/nearpath/nearpath/externaldns"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/cluster"
)

func newExternalDNS() *cobra.Command {
	var path string
	var dry bool
	cmd := &cobra.Command{
		Use:   "externaldns",
		Short: "Publish names of the cluster in PrivateZone",
		Long: `Externaldns keeps records in zones of Alibaba Cloud PrivateZone as objects of the cluster ask for, until it gets
SIGTERM. It changes no record that it does not own. No error of an API ends it: see /readyz and "nearpath zone" for what it
cannot do, and why.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := new(slog.LevelVar)
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			slog.SetDefault(log)
			klog.SetSlogLogger(log)
			return newPublisherFile(path, dry, level, log).run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration file (YAML)")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "write nothing, only log what would be written")
	return cmd
}

// A publisher is the parts of one run, made in the order in which they depend on each other.
type publisher struct {
	cfg     publisherConfig
	log     *slog.Logger
	metrics *prometheus.Registry

	store   *cluster.Store
	source  task
	rest    *rest.Config // nil: objects are in files
	events  warner
	cloud   externaldns.Cloud
	rate    func(action string) float64
	feed    *feed
	syncer  *externaldns.Syncer
	tasks   tasks
	closers []func()
}

// runPublisher builds the parts and runs them, with metrics that are not theirs. What can be wrong with the configuration is a usageError; nothing else ends
// it but its context.
func runPublisher(ctx context.Context, cfg publisherConfig, log *slog.Logger, collected ...prometheus.Collector) error {
	p := &publisher{cfg: cfg, log: log, metrics: prometheus.NewRegistry(), store: cluster.NewNameStore(), events: cluster.NoEvents{}}
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	p.metrics.MustRegister(collected...)
	defer func() {
		for _, f := range slices.Backward(p.closers) {
			f()
		}
	}()
	for _, build := range []func() error{p.buildSource, p.buildCloud, p.buildSyncer} {
		if err := build(); err != nil {
			return usageError{err}
		}
	}
	p.buildAPI()
	saveMemory(syncerGCPercent)
	p.tasks = append(p.tasks, newMemoryTask(p.feed.Ready()), newMemoryTask(p.syncer.Ready()))
	log.Info("syncer starts", "version", version, "owner", cfg.OwnerID, "policy", cfg.Policy, "dryRun", cfg.DryRun)
	err := p.tasks.run(ctx, log)
	log.Info("syncer stops; records stay as they are", "err", err)
	return err
}

func (p *publisher) buildSource() (err error) {
	kinds := p.cfg.Names.rules().Kinds()
	if p.cfg.Manifests != "" {
		p.source, err = cluster.NewFileSource(cluster.FileConfig{Dir: p.cfg.Manifests, Store: p.store, Publish: kinds, Log: p.log, Registerer: p.metrics})
	} else {
		p.source, err = p.apiSource(kinds)
	}
	p.tasks = append(p.tasks, p.source)
	return err
}

func (p *publisher) apiSource(kinds []cluster.Kind) (task, error) {
	var err error
	if p.rest, err = cluster.RESTConfig(p.cfg.Kubeconfig); err != nil {
		return nil, fmt.Errorf("find the Kubernetes API (kubeconfig: %q; manifests can be used instead): %w", p.cfg.Kubeconfig, err)
	}
	p.rest.UserAgent = publisherComponent + "/" + version
	events, err := cluster.NewEvents(cluster.EventsConfig{REST: p.rest, Component: publisherComponent, Log: p.log})
	if err != nil {
		return nil, err
	}
	p.events = events
	p.tasks = append(p.tasks, events)
	return cluster.NewAPISource(cluster.APIConfig{REST: p.rest, Store: p.store, Publish: kinds, Log: p.log, Registerer: p.metrics})
}

// publisherComponent is who events and requests are from.
const publisherComponent = "nearpath-externaldns"

func (p *publisher) buildCloud() error {
	c := p.cfg.Cloud
	creds, err := c.credentials(c.Region, aliyun.NewMetadata(c.Metadata), p.log)
	if err != nil {
		return fmt.Errorf("cloud: %w", err)
	}
	client, err := aliyun.NewPrivateZone(aliyun.Config{
		RegionID: c.Region, PVTZEndpoint: c.PVTZEndpoint, Internal: c.Internal, InsecureHTTP: c.InsecureHTTP,
		Credentials: creds, RateLimits: c.RateLimits, Metrics: p.metrics, Logger: p.log,
	})
	if err != nil {
		return fmt.Errorf("cloud.pvtzEndpoint: %w", err)
	}
	p.cloud, p.rate = client, client.Rate
	if domains := p.cfg.Zones.Domains; len(domains) > 0 {
		p.cloud = domainZones{client, domains}
	}
	return nil
}

// domainZones are the zones of an account that are one of some domains or below one. As a zone more specific than one of
// these is among them too, none is missed that would hide names.
type domainZones struct {
	externaldns.Cloud
	domains []string
}

func (d domainZones) DescribeZones(ctx context.Context) ([]aliyun.Zone, error) {
	zones, err := d.Cloud.DescribeZones(ctx)
	return slices.DeleteFunc(zones, func(z aliyun.Zone) bool {
		return !slices.ContainsFunc(d.domains, func(domain string) bool {
			domain = strings.ToLower(strings.Trim(domain, "."))
			return z.Name == domain || strings.HasSuffix(z.Name, "."+domain)
		})
	}), err
}

func (p *publisher) buildSyncer() error {
	wants, err := externaldns.NewWants(p.cfg.Names.rules())
	if err != nil {
		return err
	}
	subscription := p.store.Subscribe(p.cfg.Names.rules().Kinds()...)
	p.closers = append(p.closers, subscription.Close)
	reports := eventReporter{p.events}
	p.feed = newFeed(subscription, wants, reports, p.log, p.metrics)
	cfg := p.cfg.syncer()
	cfg.Cloud, cfg.Rate = p.cloud, p.rate
	cfg.Desired, cfg.Synced = wants, p.feed.Ready()
	cfg.Reporter, cfg.Metrics, cfg.Log = reports, p.metrics, p.log
	var e *election
	if p.cfg.LeaderElection.Enabled {
		if e, err = newElection(p.rest, p.cfg.LeaderElection, p.log); err != nil {
			return err
		}
		cfg.Leading = e.leading
	}
	if p.syncer, err = externaldns.New(cfg); err != nil {
		return err
	}
	p.feed.touch = p.syncer.Touch
	p.tasks = append(p.tasks, p.feed)
	if e != nil {
		p.tasks = append(p.tasks, &elected{task: p.syncer, election: e})
		return nil
	}
	p.tasks = append(p.tasks, p.syncer)
	return nil
}

func (p *publisher) buildAPI() {
	api := agentapi.NewServer(agentapi.ServerConfig{Socket: p.cfg.Socket, Log: p.log})
	p.registerZone(api)
	p.tasks = append(p.tasks, api, &health{
		listen: p.cfg.Listen, metrics: p.metrics, ready: make(chan struct{}), waiting: p.waiting,
		detail: func() string { return p.syncer.Status().Detail() },
	})
}

func (p *publisher) waiting() []string {
	return append(p.tasks.waiting(), refused(p.syncer.Status())...)
}

// refused are the calls that the cloud refuses whatever they are about: the syncer cannot do its work. Names that cannot be
// published and deletes that are held do not make it unready: all others are published.
func refused(st externaldns.Status) (list []string) {
	for _, problem := range st.Problems {
		if problem.Object.Kind == "PrivateZone" && problem.Reason == "CloudRefused" {
			list = append(list, problem.Message)
		}
	}
	return list
}

// An eventReporter makes Problems Events on the objects they are about.
type eventReporter struct{ events warner }

// Report implements externaldns.Reporter.
func (r eventReporter) Report(p externaldns.Problem) {
	o := p.Object
	r.events.Warn(cluster.Object{Kind: o.Kind, Name: cluster.Name{Namespace: o.Namespace, Name: o.Name}, UID: o.UID}, p.Reason, p.Message)
}

// A feed is a Task that keeps Wants in step with the objects, and tells of what changed. It is ready when the Wants hold
// everything there is.
type feed struct {
	changes interface {
		Next(ctx context.Context) (cluster.Change, error)
	}
	wants    *externaldns.Wants
	touch    func(names ...string)
	reports  externaldns.Reporter
	log      *slog.Logger
	reported *prometheus.CounterVec
	ready    chan struct{}
}

func newFeed(changes *cluster.Subscription, wants *externaldns.Wants, reports externaldns.Reporter, log *slog.Logger, metrics prometheus.Registerer) *feed {
	f := &feed{
		changes: changes, wants: wants, reports: reports, log: log, ready: make(chan struct{}),
		reported: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "nearpath", Subsystem: "externaldns", Name: "object_problems_total",
			Help: "Problems with what objects ask for, by reason.",
		}, []string{"reason"}),
	}
	metrics.MustRegister(f.reported)
	return f
}

func (f *feed) String() string         { return "names of objects" }
func (f *feed) Ready() <-chan struct{} { return f.ready }

func (f *feed) Run(ctx context.Context) error {
	for first := true; ; first = false {
		change, err := f.changes.Next(ctx)
		if err != nil {
			return nil //nolint:nilerr // it is the context's end
		}
		names, problems := f.wants.Apply(change)
		for _, p := range problems {
			f.log.Warn("cannot publish as asked", "object", p.Object.String(), "reason", p.Reason, "message", p.Message)
			f.reported.WithLabelValues(p.Reason).Inc()
			f.reports.Report(p)
		}
		if first {
			close(f.ready)
		}
		f.touch(names...)
	}
}
