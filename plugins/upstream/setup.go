package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/parse"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/nodelocaldns/upstream"
)

// What belongs to the process: connections stay while configurations come and go, and the program around us is reached
// through variables only.
var (
	pool     = upstream.NewPool()
	provided atomic.Pointer[func() *cluster.Snapshot]
	notified atomic.Pointer[func(upstream.Event)]
)

func init() {
	plugin.Register(name, setup)
	if slices.Contains(dnsserver.Directives, name) {
		return // plugin.cfg has us
	}
	before := slices.Index(dnsserver.Directives, "forward")
	dnsserver.Directives = slices.Insert(slices.Clone(dnsserver.Directives), before, name)
}

// Provide sets where the endpoints of Services come from, when no plugin `nearpath` in the server block has its own source.
// Call it before the server starts.
func Provide(snapshot func() *cluster.Snapshot) { provided.Store(&snapshot) }

// Notify sets what is called when a loop is found and when it is gone. It must not block. Call it before the server starts.
func Notify(f func(Event)) { notified.Store(&f) }

// An Event says that a target leads back to this server, or does not any more.
type Event = upstream.Event

// maxFails is the default of `forward`.
const maxFails = 2

func setup(c *caddy.Controller) error {
	h, err := parseBlock(c)
	if err != nil {
		return plugin.Error(name, err)
	}
	metrics, err := upstream.NewMetrics(prometheus.DefaultRegisterer)
	if err != nil {
		return plugin.Error(name, err)
	}
	server := dnsserver.GetConfig(c)
	c.OnStartup(func() error {
		// Only now are the other plugins of the server block there.
		if err := h.open(metrics, snapshots(server.Handler("nearpath"))); err != nil {
			return plugin.Error(name, err)
		}
		return nil
	})
	c.OnShutdown(h.close)
	server.AddPlugin(func(next plugin.Handler) plugin.Handler {
		h.Next = next
		return h
	})
	return nil
}

// snapshots is where Snapshots come from: the plugin `nearpath` of the server block, or else the program around us.
func snapshots(nearpath plugin.Handler) func() *cluster.Snapshot {
	if p, ok := nearpath.(interface{ Cluster() *cluster.Snapshot }); ok {
		return p.Cluster
	}
	if f := provided.Load(); f != nil {
		return *f
	}
	return nil
}

func (h *Handler) open(m *upstream.Metrics, snapshot func() *cluster.Snapshot) error {
	for _, to := range h.routes {
		to.config.Pool, to.config.Metrics, to.config.Log = pool, m, slog.Default()
		if slices.ContainsFunc(to.config.Targets, func(t upstream.Target) bool { return !t.Addr.IsValid() }) {
			to.config.Snapshot = snapshot
		}
		if f := notified.Load(); f != nil {
			to.config.Notify = *f
		}
		asked, err := upstream.New(to.config)
		if err != nil {
			_ = h.close()
			return err
		}
		to.asked = asked
	}
	return nil
}

func (h *Handler) close() error {
	for _, to := range h.routes {
		if to.asked != nil {
			to.asked.Close()
		}
	}
	return nil
}

func parseBlock(c *caddy.Controller) (*Handler, error) {
	h := &Handler{}
	for c.Next() {
		to, err := parseRoute(c)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(h.routes, func(have *route) bool { return have.zone[0] == to.zone[0] }) {
			return nil, c.Errf("%s: a line of this server block is for it already", to.zone[0])
		}
		h.routes = append(h.routes, to)
	}
	slices.SortStableFunc(h.routes, func(a, b *route) int { return cmp.Compare(dns.CountLabel(b.zone[0]), dns.CountLabel(a.zone[0])) })
	return h, nil
}

// A line is a route while it is read.
type line struct {
	*route
	to                  []string
	forceTCP, preferUDP bool
}

func parseRoute(c *caddy.Controller) (*route, error) {
	l := line{route: &route{config: upstream.Config{MaxFails: maxFails, Loop: time.Minute}}}
	var from string
	if !c.Args(&from) {
		return nil, c.ArgErr()
	}
	zones := plugin.Host(from).NormalizeExact()
	if len(zones) != 1 {
		return nil, c.Errf("%q is not one zone", from)
	}
	l.zone, l.config.Zone = zones, zones[0]
	if l.to = c.RemainingArgs(); len(l.to) == 0 {
		return nil, c.ArgErr()
	}
	for c.NextBlock() {
		if err := l.property(c); err != nil {
			return nil, err
		}
	}
	return l.route, l.targets(c)
}

// targets reads the destinations, which the properties may have made TCP or UDP.
func (l *line) targets(c *caddy.Controller) error {
	if l.forceTCP && l.preferUDP {
		return c.Err("force_tcp and prefer_udp exclude each other")
	}
	for to := l.to; len(to) > 0; to = to[1:] {
		if to[0] != "service" {
			if err := l.addresses(to[0]); err != nil {
				return c.Err(err.Error())
			}
			continue
		}
		if to = to[1:]; len(to) == 0 {
			return c.Err("service: no NAMESPACE/NAME")
		}
		if err := l.service(to[0]); err != nil {
			return c.Err(err.Error())
		}
	}
	return nil
}

func (l *line) service(named string) error {
	namespace, service, ok := strings.Cut(named, "/")
	if !ok || namespace == "" || service == "" || strings.Contains(service, "/") {
		return fmt.Errorf("service %q is not NAMESPACE/NAME", named)
	}
	l.add(upstream.Target{Service: cluster.Name{Namespace: namespace, Name: service}, Transport: upstream.TCP})
	return nil
}

func (l *line) add(t upstream.Target) {
	switch {
	case l.forceTCP:
		t.Transport = upstream.TCP
	case l.preferUDP:
		t.Transport = upstream.UDPFirst
	}
	l.config.Targets = append(l.config.Targets, t)
}

// addresses adds an address, or those of a resolv.conf.
func (l *line) addresses(to string) error {
	if kind, _ := parse.Transport(to); kind != transport.DNS {
		return fmt.Errorf("%q: only plain DNS is asked for", to)
	}
	hosts, err := parse.HostPortOrFile(to)
	if err != nil {
		return err
	}
	for _, host := range hosts {
		_, host = parse.Transport(host)
		addr, err := netip.ParseAddrPort(host)
		if err != nil || addr.Port() == 0 {
			return fmt.Errorf("%q is not an address, with a port or without", host)
		}
		l.add(upstream.Target{Addr: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())})
	}
	return nil
}

// property reads one line of the block.
func (l *line) property(c *caddy.Controller) error {
	property, args := c.Val(), c.RemainingArgs()
	if err := l.set(property, args); err != nil {
		return c.Errf("%s: %v", property, err)
	}
	return nil
}

var (
	errArguments = errors.New("wrong number of arguments")
	errProperty  = errors.New("unknown property")
)

func (l *line) set(property string, args []string) error {
	switch property {
	case "except", "failover", "health_check":
		return l.setList(property, args)
	case "force_tcp", "prefer_udp":
		if len(args) > 0 {
			return errArguments
		}
		l.forceTCP, l.preferUDP = l.forceTCP || property == "force_tcp", l.preferUDP || property == "prefer_udp"
		return nil
	}
	if len(args) != 1 {
		return cmp.Or(l.known(property), errArguments)
	}
	return l.setOne(property, args[0])
}

func (l *line) known(property string) error {
	if err := l.setOne(property, ""); errors.Is(err, errProperty) {
		return err
	}
	return nil
}

func (l *line) setOne(property, arg string) error {
	cfg := &l.config
	switch property {
	case "connections":
		return number(arg, 1, 16, &cfg.Connections)
	case "max_fails":
		return number(arg, 0, 1000, &cfg.MaxFails)
	case "max_concurrent":
		return number(arg, 1, 1<<20, &cfg.MaxConcurrent)
	case "expire":
		return duration(arg, &cfg.Expire)
	case "read_timeout":
		return duration(arg, &cfg.ReadTimeout)
	case "timeout":
		return duration(arg, &cfg.Timeout)
	case "loop":
		if arg == "off" {
			cfg.Loop = 0
			return nil
		}
		return duration(arg, &cfg.Loop)
	case "hedge":
		cfg.NoHedge = arg == "off"
		return oneOf(arg, "on", "off")
	case "policy":
		cfg.Policy = map[string]upstream.Policy{"random": upstream.Random, "round_robin": upstream.Random, "sequential": upstream.Sequential}[arg]
		return oneOf(arg, "nearest", "random", "round_robin", "sequential")
	case "source_address":
		addr, err := netip.ParseAddr(arg)
		cfg.Source = addr
		return err
	}
	return errProperty
}

func (l *line) setList(property string, args []string) error {
	if len(args) == 0 {
		return errArguments
	}
	switch property {
	case "except":
		for _, arg := range args {
			l.except = append(l.except, plugin.Host(arg).NormalizeExact()...)
		}
	case "failover":
		l.config.Failover = []int{}
		for _, arg := range args {
			code, ok := dns.StringToRcode[strings.ToUpper(arg)]
			switch {
			case arg == "off" && len(args) == 1:
			case !ok || code == dns.RcodeSuccess:
				return fmt.Errorf("%q is not the code of an error", arg)
			default:
				l.config.Failover = append(l.config.Failover, code)
			}
		}
	case "health_check":
		return l.healthCheck(args)
	}
	return nil
}

func (l *line) healthCheck(args []string) error {
	if err := duration(args[0], &l.config.HealthCheck); err != nil {
		return err
	}
	for args = args[1:]; len(args) > 0; args = args[1:] {
		switch {
		case args[0] == "no_rec":
			l.config.NoRecursion = true
		case args[0] == "domain" && len(args) > 1:
			if _, ok := dns.IsDomainName(args[1]); !ok {
				return fmt.Errorf("%q is not a domain name", args[1])
			}
			l.config.HealthName = plugin.Name(args[1]).Normalize()
			args = args[1:]
		default:
			return fmt.Errorf("unknown option %q", args[0])
		}
	}
	return nil
}

func number(arg string, least, most int, to *int) error {
	n, err := strconv.Atoi(arg)
	if err != nil || n < least || n > most {
		return fmt.Errorf("%q is not within %d to %d", arg, least, most)
	}
	*to = n
	return nil
}

func duration(arg string, to *time.Duration) error {
	d, err := time.ParseDuration(arg)
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is not a positive duration", arg)
	}
	*to = d
	return nil
}

func oneOf(arg string, values ...string) error {
	if !slices.Contains(values, arg) {
		return fmt.Errorf("%q is none of %s", arg, strings.Join(values, ", "))
	}
	return nil
}
