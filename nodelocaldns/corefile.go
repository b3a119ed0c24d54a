package nodelocaldns

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	defaultDomain    = "cluster.local"
	defaultCacheSize = 10_000
	maxTTL           = 3600
)

// Config is what the node's Corefile is made of.
type Config struct {
	Domain string // the cluster's, "cluster.local" when empty
	TTL    uint32 // seconds, of answers from the cluster zone, 0 to 3600
	// Listen are the addresses to serve, each on UDP and TCP; at least one.
	Listen []netip.AddrPort
	// Upstreams answer what the cluster does not: "address", "address:port" or the absolute path of a resolv.conf.
	// Without any, such names are SERVFAIL.
	Upstreams []string
	// Stubs are domains that have upstreams of their own, by longest suffix.
	Stubs []Stub
	// CacheSize is how many of their answers are kept, and again how many negative ones; 0 means 10000.
	CacheSize int
	// Autopath searches for clients; the program says how they search, see plugins/autopath.
	Autopath bool
	// Directives are lines of a user, which go into the block of the root as they are.
	Directives string
}

// A Stub is a domain with upstreams of its own, written as those of Config are.
type Stub struct {
	Domain    string
	Upstreams []string
}

// Corefile writes the Corefile for [NewServer]. Errors name the field.
//
// The zone stands before the cache, so that cluster names change the moment the Snapshot does.
func (c Config) Corefile() ([]byte, error) {
	c.Domain = cmp.Or(strings.TrimSuffix(c.Domain, "."), defaultDomain)
	c.CacheSize = cmp.Or(c.CacheSize, defaultCacheSize)
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("write the Corefile: %w", err)
	}
	var b strings.Builder
	for _, port := range c.ports() {
		c.writeBlock(&b, port)
	}
	return []byte(b.String()), nil
}

func (c Config) ports() []uint16 {
	var ports []uint16
	for _, at := range c.Listen {
		ports = append(ports, at.Port())
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// writeBlock writes the lines in the order in which the plugins see a query.
func (c Config) writeBlock(b *strings.Builder, port uint16) {
	fmt.Fprintf(b, ".:%d {\n\tbind", port)
	for _, at := range c.Listen {
		if at.Port() == port {
			fmt.Fprintf(b, " %s", at.Addr())
		}
	}
	b.WriteString("\n\tmetadata\n\tmetrics\n\terrors\n\tanswers\n\tloadbalance\n")
	if c.Autopath {
		b.WriteString("\tautopath @nearpath\n")
	}
	fmt.Fprintf(b, "\tnearpath %s in-addr.arpa ip6.arpa {\n\t\tttl %d\n\t}\n", c.Domain, c.TTL)
	if len(c.Upstreams)+len(c.Stubs) > 0 {
		c.writeCache(b)
	}
	for _, stub := range c.Stubs {
		writeUpstream(b, strings.TrimSuffix(stub.Domain, "."), stub.Upstreams)
	}
	if len(c.Upstreams) > 0 {
		writeUpstream(b, ".", c.Upstreams)
	}
	for line := range strings.Lines(c.Directives) {
		fmt.Fprintf(b, "\t%s\n", strings.TrimRight(line, "\r\n"))
	}
	b.WriteString("}\n")
}

// writeCache keeps answers for an hour after their time (RFC 8767), for when nobody upstream answers: a client waits for
// 1.8 s at most, then it gets the old answer with a TTL of 30 s, and for 5 s so does whoever asks next, at once.
func (c Config) writeCache(b *strings.Builder) {
	fmt.Fprintf(b, "\tcache {\n\t\tsuccess %d\n\t\tdenial %d\n\t\tservfail 5s\n", c.CacheSize, c.CacheSize)
	b.WriteString("\t\tprefetch 1 1h 20%\n\t\tserve_stale 1h verify 1.8s 30s 5s\n\t\tserve_stale_policy prefer_positive\n\t}\n")
}

func writeUpstream(b *strings.Builder, domain string, upstreams []string) {
	fmt.Fprintf(b, "\tupstream %s %s\n", domain, strings.Join(upstreams, " "))
}

// domainPattern keeps anything out of the Corefile that means something in it.
var domainPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*$`)

func isDomain(s string) bool { return domainPattern.MatchString(s) && len(s) <= 200 }

func (c Config) validate() error {
	switch {
	case !isDomain(c.Domain):
		return fmt.Errorf("domain: %q is not a domain name", c.Domain)
	case c.TTL > maxTTL:
		return fmt.Errorf("ttl: %d is above %d", c.TTL, maxTTL)
	case c.CacheSize < 0:
		return fmt.Errorf("cache size: %d is negative", c.CacheSize)
	case len(c.Listen) == 0:
		return errors.New("listen: no address")
	}
	for _, at := range c.Listen {
		if !at.Addr().IsValid() || at.Port() == 0 {
			return fmt.Errorf("listen: %q is not an address and port", at)
		}
	}
	for _, upstream := range c.Upstreams {
		if err := c.validateUpstream(upstream); err != nil {
			return fmt.Errorf("upstreams: %w", err)
		}
	}
	return c.validateStubs()
}

func (c Config) validateStubs() error {
	seen := map[string]bool{}
	for _, stub := range c.Stubs {
		domain := strings.ToLower(strings.TrimSuffix(stub.Domain, "."))
		switch {
		case !isDomain(domain):
			return fmt.Errorf("stub domains: %q is not a domain name", stub.Domain)
		case seen[domain]:
			return fmt.Errorf("stub domains: %s is there twice", domain)
		case len(stub.Upstreams) == 0:
			return fmt.Errorf("stub domains: %s has no upstream", domain)
		}
		seen[domain] = true
		for _, upstream := range stub.Upstreams {
			if err := c.validateUpstream(upstream); err != nil {
				return fmt.Errorf("stub domains: %s: %w", domain, err)
			}
		}
	}
	return nil
}

func (c Config) validateUpstream(upstream string) error {
	if filepath.IsAbs(upstream) && !strings.ContainsAny(upstream, " \t\r\n\"{}#$") {
		return nil
	}
	at, err := netip.ParseAddrPort(upstream)
	if err != nil {
		addr, err := netip.ParseAddr(upstream)
		if err != nil {
			return fmt.Errorf("%q is not an address or an absolute path", upstream)
		}
		at = netip.AddrPortFrom(addr, 53)
	}
	if slices.Contains(c.Listen, at) {
		return fmt.Errorf("%s is our own listener", at)
	}
	return nil
}
