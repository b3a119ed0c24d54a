package nearpath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/miekg/dns"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/nodelocaldns"
)

const (
	defaultTTL = 5
	maxTTL     = 3600
	// startupTimeout is how long a source of the Corefile may hold up the start: a server that replaces another one on
	// reload should not answer SERVFAIL first.
	startupTimeout = 5 * time.Second
)

// provided is set by the program around us; CoreDNS gives a plugin no other way to reach it.
var provided atomic.Pointer[func() *cluster.Snapshot]

func init() {
	plugin.Register(name, setup)
	if slices.Contains(dnsserver.Directives, name) {
		return // plugin.cfg has us
	}
	before := slices.Index(dnsserver.Directives, "cache")
	dnsserver.Directives = slices.Insert(slices.Clone(dnsserver.Directives), before, name)
}

// Provide sets where Snapshots come from when the Corefile names no source. Call it before the server starts.
func Provide(snapshot func() *cluster.Snapshot) { provided.Store(&snapshot) }

// A source is where a Corefile says that Snapshots come from; both fields empty means from Provide.
type source struct {
	manifests  string
	kubeconfig *string // "" for the pod's service account
}

// A task keeps a Store in step with a source.
type task interface {
	Run(context.Context) error
	Ready() <-chan struct{}
}

func setup(c *caddy.Controller) error {
	n, from, err := parse(c)
	if err != nil {
		return plugin.Error(name, err)
	}
	if err := n.connect(c, from); err != nil {
		return plugin.Error(name, err)
	}
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		n.Next = next
		return n
	})
	return nil
}

func parse(c *caddy.Controller) (*Nearpath, source, error) {
	var from source
	n, ttl, seen := &Nearpath{}, uint32(defaultTTL), false
	for c.Next() {
		if seen {
			return nil, from, plugin.ErrOnce
		}
		seen = true
		n.Zones = plugin.OriginsFromArgsOrServerBlock(c.RemainingArgs(), c.ServerBlockKeys)
		for c.NextBlock() {
			if err := parseProperty(c, &ttl, &from); err != nil {
				return nil, from, err
			}
		}
	}
	for _, zone := range n.Zones {
		if !isReverse(zone) {
			n.Domains = append(n.Domains, nodelocaldns.Zone{Domain: zone, TTL: ttl})
		}
	}
	if len(n.Domains) == 0 || slices.Contains(n.Zones, ".") {
		return nil, from, fmt.Errorf("zones %q: the cluster's domain is not among them, or the root is", []string(n.Zones))
	}
	return n, from, nil
}

// isReverse includes the roots of reverse names, which dnsutil.IsReverse does not.
func isReverse(zone string) bool {
	return dns.IsSubDomain("in-addr.arpa.", zone) || dns.IsSubDomain("ip6.arpa.", zone)
}

func parseProperty(c *caddy.Controller, ttl *uint32, from *source) error {
	property, args := c.Val(), c.RemainingArgs()
	switch {
	case property == "ttl" && len(args) == 1:
		seconds, err := strconv.ParseUint(args[0], 10, 32)
		if err != nil || seconds > maxTTL {
			return c.Errf("ttl %q is not within 0 to %d", args[0], maxTTL)
		}
		*ttl = uint32(seconds)
	case (property == "manifests" || property == "kubeconfig") && *from != source{}:
		return c.Errf("%s: a source is set already", property)
	case property == "manifests" && len(args) == 1:
		from.manifests = args[0]
	case property == "kubeconfig" && len(args) <= 1:
		from.kubeconfig = new("")
		if len(args) == 1 {
			from.kubeconfig = &args[0]
		}
	case property == "ttl" || property == "manifests" || property == "kubeconfig":
		return c.ArgErr()
	default:
		return c.Errf("unknown property %q", property)
	}
	return nil
}

// connect sets where the plugin's Snapshots come from. A source of its own runs as long as the server.
func (n *Nearpath) connect(c *caddy.Controller, from source) error {
	if from == (source{}) {
		snapshot := provided.Load()
		if snapshot == nil {
			return errors.New("no source: the Corefile names none, and the program around provides none")
		}
		n.Snapshot = *snapshot
		return nil
	}
	store := cluster.NewStore()
	n.Snapshot = store.Snapshot
	t, err := from.task(store)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	c.OnStartup(func() error {
		running.Go(func() {
			if err := t.Run(ctx); err != nil {
				slog.Error("source of Snapshots ended", "source", t, "err", err)
			}
		})
		select {
		case <-t.Ready():
		case <-time.After(startupTimeout):
		}
		return nil
	})
	c.OnShutdown(func() error {
		cancel()
		running.Wait()
		return nil
	})
	return nil
}

func (s source) task(store *cluster.Store) (task, error) {
	if s.manifests != "" {
		return cluster.NewFileSource(cluster.FileConfig{Dir: s.manifests, Store: store, Log: slog.Default()})
	}
	config, err := cluster.RESTConfig(*s.kubeconfig)
	if err != nil {
		return nil, err
	}
	return cluster.NewAPISource(cluster.APIConfig{REST: config, Store: store, Log: slog.Default()})
}
