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
	// They are asked over TCP connections that stay open. Without any, such names are SERVFAIL.
	Upstreams []string
	// CacheSize is how many of their answers are kept, and again how many negative ones; 0 means 10000.
	CacheSize int
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

func (c Config) writeBlock(b *strings.Builder, port uint16) {
	fmt.Fprintf(b, ".:%d {\n\tbind", port)
	for _, at := range c.Listen {
		if at.Port() == port {
			fmt.Fprintf(b, " %s", at.Addr())
		}
	}
	fmt.Fprintf(b, "\n\terrors\n\tloadbalance\n\tnearpath %s in-addr.arpa ip6.arpa {\n\t\tttl %d\n\t}\n", c.Domain, c.TTL)
	if len(c.Upstreams) > 0 {
		fmt.Fprintf(b, "\tcache {\n\t\tsuccess %d\n\t\tdenial %d\n\t\tservfail 5s\n\t}\n", c.CacheSize, c.CacheSize)
		fmt.Fprintf(b, "\tforward . %s {\n\t\tforce_tcp\n\t\texpire 30s\n\t}\n", strings.Join(c.Upstreams, " "))
	}
	b.WriteString("}\n")
}

// domainPattern keeps anything out of the Corefile that means something in it.
var domainPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*$`)

func (c Config) validate() error {
	switch {
	case !domainPattern.MatchString(c.Domain) || len(c.Domain) > 200:
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
			return err
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
			return fmt.Errorf("upstreams: %q is not an address or an absolute path", upstream)
		}
		at = netip.AddrPortFrom(addr, 53)
	}
	if slices.Contains(c.Listen, at) {
		return fmt.Errorf("upstreams: %s is our own listener", at)
	}
	return nil
}
