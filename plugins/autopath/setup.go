package autopath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/autopath"
)

// The directive is the stock plugin's, and so is its place in the order.
func init() { plugin.Register(name, setup) }

// A config is what a Corefile says.
type config struct {
	zones  plugin.Zones
	file   string // a resolv.conf, or
	plugin string // the name of a plugin

	index      indexKind
	kubeconfig *string // "" for the service account of the pod; nil for what the plugin uses
	ndots      int     // -1: not set
	search     []string
	searchSet  bool
	domain     string
}

// An indexKind says who knows the pods.
type indexKind uint8

const (
	indexDefault indexKind = iota
	indexPods              // we do
	indexPlugin            // the plugin does
	indexNode              // the program around us does
)

func setup(c *caddy.Controller) error {
	cfg, err := parse(c)
	if err != nil {
		return plugin.Error(name, err)
	}
	metrics, err := newCounters(prometheus.DefaultRegisterer)
	if err != nil {
		return plugin.Error(name, err)
	}
	a := &Autopath{Zones: cfg.zones}
	if err := a.build(c, cfg, metrics); err != nil {
		return plugin.Error(name, err)
	}
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		a.Next, a.search.Next = next, next
		return a
	})
	return nil
}

// build makes the search and what knows the clients.
func (a *Autopath) build(c *caddy.Controller, cfg config, metrics *counters) error {
	scopes := new(latescopes)
	search := autopath.Config{Scopes: scopes, Observe: metrics.observe}
	node, err := cfg.node()
	switch {
	case err != nil:
		return err
	case node != nil:
		scopes.Scopes = node.Scopes
		search.Told, search.Left = true, node.Left
	case cfg.file != "":
		if scopes.Scopes, err = fileScope(cfg); err != nil {
			return err
		}
	default:
		server := dnsserver.GetConfig(c)
		// Only at startup are the plugins behind us there.
		c.OnStartup(func() error {
			if err := connect(c, a, cfg, server.Handler(cfg.plugin), scopes, metrics); err != nil {
				return plugin.Error(name, err)
			}
			return nil
		})
	}
	a.search = autopath.New(search)
	live.follow(c, a.search)
	return nil
}

// node returns who knows the clients when that is the program around us, or nil.
func (cfg *config) node() (*Node, error) {
	n := provided.Load()
	switch {
	case cfg.index == indexNode && n == nil:
		return nil, errors.New("index node: this program does not know its clients")
	case cfg.file == "" && (cfg.index == indexNode || cfg.index == indexDefault):
		return n, nil
	}
	return nil, nil
}

// latescopes are Scopes that are set before the server serves.
type latescopes struct{ autopath.Scopes }

// A fixed scope is every client's.
type fixed struct{ scope autopath.Scope }

func (f fixed) Scope(context.Context, netip.Addr) (autopath.Scope, bool) {
	return f.scope, f.scope != autopath.Scope{}
}

// fileScope reads the resolv.conf that all clients are said to have. Without `options ndots` it may be a list for this
// plugin only, as the stock one takes it, and the clients' ndots that of Kubernetes.
func fileScope(cfg config) (autopath.Scopes, error) {
	text, err := os.ReadFile(cfg.file)
	if err != nil {
		return nil, fmt.Errorf("failed to parse %q: %w", cfg.file, err)
	}
	conf := autopath.ParseResolvConf(string(text))
	ndots := autopath.ClusterNdots
	switch {
	case cfg.ndots >= 0:
		ndots = cfg.ndots
	case conf.NdotsSet:
		ndots = conf.Ndots
	}
	scope, err := autopath.NewScope(append(conf.Search, cfg.search...), ndots, cfg.domain)
	if err != nil {
		return nil, fmt.Errorf("failed to parse %q: %w", cfg.file, err)
	}
	return fixed{scope}, nil
}

// An autoPather is a plugin that knows the search list of a client: plugin/autopath.AutoPather of CoreDNS. The list ends
// with the empty string; nil means that nothing is known.
type autoPather interface {
	AutoPath(request.Request) []string
}

// connect finds out how clients search.
func connect(c *caddy.Controller, a *Autopath, cfg config, h plugin.Handler, scopes *latescopes, m *counters) error {
	scopes.Scopes = fixed{}
	if h == nil {
		log.Warningf("No plugin %s in the server block: nothing is searched for", cfg.plugin)
		return nil
	}
	if cfg.index == indexPlugin || cfg.index == indexDefault && !ownIndex(h) {
		p, ok := h.(autoPather)
		if !ok {
			return fmt.Errorf("%s does not implement the AutoPather interface", cfg.plugin)
		}
		a.ask, a.lists.ndots = p.AutoPath, autopath.ClusterNdots
		if cfg.ndots >= 0 {
			a.lists.ndots = cfg.ndots
		}
		return nil
	}
	f, err := podIndex(cfg, h, m)
	if err != nil {
		return err
	}
	scopes.Scopes, a.ready = f, f.Ready()
	follow(c, f)
	return nil
}

func parse(c *caddy.Controller) (config, error) {
	cfg, seen := config{ndots: -1}, false
	for c.Next() {
		if seen {
			return cfg, plugin.ErrOnce
		}
		seen = true
		if err := cfg.arguments(c, c.RemainingArgs()); err != nil {
			return cfg, err
		}
		for c.NextBlock() {
			if err := cfg.property(c); err != nil {
				return cfg, err
			}
		}
	}
	return cfg, cfg.validate(c)
}

func (cfg *config) arguments(c *caddy.Controller, args []string) error {
	if len(args) < 1 {
		return c.Err("no resolv-conf specified")
	}
	last := len(args) - 1
	if of, ok := strings.CutPrefix(args[last], "@"); ok {
		cfg.plugin = of
	} else {
		cfg.file = args[last]
	}
	if cfg.plugin == "" && cfg.file == "" {
		return c.Errf("failed to parse %q: neither a file nor @ and a plugin", args[last])
	}
	cfg.zones = plugin.OriginsFromArgsOrServerBlock(args[:last], c.ServerBlockKeys)
	return nil
}

func (cfg *config) property(c *caddy.Controller) error {
	property, args := c.Val(), c.RemainingArgs()
	switch {
	case property == "index" && len(args) == 1 && args[0] == "plugin":
		cfg.index = indexPlugin
	case property == "index" && len(args) == 1 && args[0] == "node":
		cfg.index = indexNode
	case property == "index" && len(args) >= 1 && len(args) <= 2 && args[0] == "pods":
		cfg.index = indexPods
		if len(args) == 2 {
			cfg.kubeconfig = &args[1]
		}
	case property == "ndots" && len(args) == 1:
		n, err := strconv.ParseUint(args[0], 10, 8)
		if err != nil || n > 15 {
			return c.Errf("ndots %q is not within 0 to 15", args[0])
		}
		cfg.ndots = int(n)
	case property == "search":
		cfg.search, cfg.searchSet = args, true
	case property == "domain" && len(args) == 1:
		cfg.domain = args[0]
	case slices.Contains([]string{"index", "ndots", "domain"}, property):
		return c.ArgErr()
	default:
		return c.Errf("unknown property %q", property)
	}
	return nil
}

// validate finds what only a whole block can have wrong.
func (cfg *config) validate(c *caddy.Controller) error {
	if cfg.file != "" && cfg.index != indexDefault {
		return c.Err("index: a resolv-conf needs none")
	}
	if _, err := autopath.NewScope(cfg.search, 0, cfg.domain); err != nil {
		return c.Err(err.Error())
	}
	if cfg.domain != "" {
		cfg.domain = strings.TrimSuffix(dns.CanonicalName(cfg.domain), ".")
	}
	return nil
}
